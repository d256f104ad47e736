"""The template of mechanisms that carry a state from token to token and form no map.

A state S (B, H, D, E) takes up each key and value, and each query reads it; decoding keeps the
state and nothing else. Subclasses say how a whole sequence is run through a state, `advance`.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.base import Attention
from attnkit.attention.cache import Cache, StateCache
from attnkit.masks import Mask, Padding


class Recurrent(Attention):
    """Attention by a state of fixed size. It is computed in float32 at least: sums over a whole
    sequence would lose their small terms in bfloat16.
    """

    mask_names = frozenset(("causal", "padding"))
    position_kinds = frozenset(("embeddings", "queries_and_keys"))
    cache_dtype = torch.float32
    map_rows = "signed"

    @abstractmethod
    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Runs tokens through the state.

        Args:
            q: (B, H, T, D)
            k: (B, H, S, D), with what its key carries beyond that.
            v: (B, H, S, D)
            mask: which query may look at which key.
            state: after the tokens before these; None: there are none.

        Returns:
            Heads (B, H, T, D), and the state after the last key.
        """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """What each query reads from the state: (B, H, T, D)."""
        return self._advance(q, k, v, mask, None)[0]

    def decode(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, cache: Cache) -> Tensor:
        """Goes on from the state in the cache."""
        assert isinstance(cache, StateCache)
        heads, state = self._advance(q, k, v, mask, cache.state)
        cache.update(state, k.shape[2])
        return heads

    def new_cache(self) -> Cache:
        """A state, whatever the length."""
        return StateCache()

    def _advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            heads, state = self.advance(q.to(exact), k.to(exact), v.to(exact), mask, state)
        return heads.to(v.dtype), state


def real_keys(mask: Mask, k: Tensor) -> Tensor | None:
    """(B, 1, S, 1): 1 where a key is real, 0 where it is padding; None: all are real. `k` may be
    the last keys of those that the mask knows.
    """
    keeps = [part.keep for part in mask.parts() if isinstance(part, Padding)]
    if not keeps:
        return None
    keep = torch.stack(keeps).all(dim=0) if len(keeps) > 1 else keeps[0]
    return keep[:, None, -k.shape[2] :, None].to(k.dtype)


def in_chunks(chunk: int, num_queries: int, *heads: Tensor) -> list[Tensor]:
    """Brings queries, keys, ... to one length, each standing at the end, and cuts them: (B, H, L,
    X) -> (B, H, n, chunk, X) each. Zeros fill up the front, and the last chunk.
    """
    length = max(head.shape[2] for head in heads)
    chunk = min(chunk, num_queries)  # decoding one token must not cost a whole chunk
    tail = -length % chunk
    return [
        F.pad(head, (0, 0, length - head.shape[2], tail)).unflatten(2, (-1, chunk))
        for head in heads
    ]


def joined(chunks: list[Tensor], length: int, num_queries: int) -> Tensor:
    """Takes `in_chunks` back for the queries: n of (B, H, chunk, X) -> (B, H, T, X)."""
    return torch.cat(chunks, dim=2)[:, :, :length][:, :, -num_queries:]


def decayed_sums(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Runs tokens through a state that fades: S_t = exp(g_t) S_{t-1} + k_t v_tᵀ, o_t = q_t S_t.

    Args:
        q: (B, H, T, D)
        k: (B, H, S, D)
        v: (B, H, S, E)
        log_decay: (B, H, S, D or 1), g: at most 0.
        state: (B, H, D, E)
        chunk: tokens that are computed at once; with D decays it takes chunk^2 D numbers for each.

    Returns:
        (B, H, T, E), and the state after the last key.
    """
    num_queries, length = q.shape[2], max(q.shape[2], k.shape[2])
    chunks = in_chunks(chunk, num_queries, q, k, v, log_decay)
    earlier = torch.ones(chunks[0].shape[3], chunks[0].shape[3], device=q.device).tril() > 0
    outputs = []
    for q_n, k_n, v_n, g_n in zip(*(heads.unbind(2) for heads in chunks), strict=True):
        faded = g_n.cumsum(dim=2)  # (B, H, c, D or 1): since the chunk began
        between = faded.unsqueeze(3) - faded.unsqueeze(2)  # (B, H, c, c, D or 1)
        between = between.masked_fill(~earlier[..., None], float("-inf")).exp()
        if between.shape[-1] == 1:
            within = (q_n @ k_n.transpose(-2, -1)) * between.squeeze(-1)
        else:
            within = torch.einsum("bhid,bhjd,bhijd->bhij", q_n, k_n, between)
        outputs.append((q_n * faded.exp()) @ state + within @ v_n)
        rest = (faded[:, :, -1:] - faded).exp()  # from each token to the end of the chunk
        state = faded[:, :, -1, :, None].exp() * state + (k_n * rest).transpose(-2, -1) @ v_n
    return joined(outputs, length, num_queries), state
