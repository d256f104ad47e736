"""FlexAttention with the mask's rule as mask_mod and the bias as score_mod; compiled on a GPU."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from attnkit.attention.kernels.call import Call, Kernel, Verdict, Where
from attnkit.masks import Causal, Mask, NoMask, name_of

MIN_KEYS = 1024
"""Below this, its compilation and its block mask cost more than they save."""

MIN_QUERIES = 128


class Flex(Kernel):
    """Blocks of the map in which nothing is allowed are skipped."""

    name = "flex"

    def refusal(self, call: Call) -> str | None:
        """It has no dropout, and takes a bias as a score_mod alone."""
        if call.weights is not None:
            return call.why_own
        if call.dropout > 0:
            return "it has no dropout"
        if call.bias is not None and call.score_mod is None:
            return "the bias has no score_mod"
        return None

    def suits(self, call: Call, where: Where) -> Verdict:
        """On a GPU, for long inputs whose mask or bias would otherwise be a dense tensor."""
        if where.device != "cuda":
            return Verdict(False, "for a GPU alone")
        if call.num_queries < MIN_QUERIES or call.num_keys < MIN_KEYS:
            return Verdict(False, f"shorter than {MIN_KEYS} keys")
        if isinstance(call.mask, NoMask | Causal) and call.bias is None:
            return Verdict(False, "no mask tensor to avoid")
        return Verdict(
            True, f"mask {name_of(call.mask)} on a GPU: blocks without an allowed pair are skipped"
        )

    def __call__(self, call: Call) -> Tensor:
        """One call of FlexAttention."""
        offset, modify = call.num_keys - call.num_queries, call.score_mod

        def score_mod(
            score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor
        ) -> Tensor:
            assert modify is not None
            biased = modify(score, head, query + offset, key)
            assert biased is not None
            return biased

        return _compiled_flex(call.q.device.type)(
            call.q,
            call.k,
            call.v,
            score_mod=score_mod if call.bias is not None else None,
            block_mask=_block_mask(call.mask, call.num_queries, call.num_keys, call.q.device),
            scale=call.scale,
            enable_gqa=call.k.shape[1] != call.q.shape[1],
        )


@functools.cache
def _compiled_flex(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention


@functools.lru_cache(maxsize=8)  # all layers of a forward pass share one mask
def _block_mask(mask: Mask, num_queries: int, num_keys: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    offset = num_keys - num_queries
    return create_block_mask(
        lambda batch, head, query, key: mask.allowed(batch, query + offset, key),
        B=mask.batch_size if mask.batch_size > 1 else None,
        H=None,
        Q_LEN=num_queries,
        KV_LEN=num_keys,
        device=str(device),
    )
