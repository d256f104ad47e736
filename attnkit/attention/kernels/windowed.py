"""sdpa over chunks of queries, each with its own chunk of keys and the neighbours within the mask's
reach. Time and memory grow with T x window instead of T x S.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attnkit.attention.kernels import thresholds
from attnkit.attention.kernels.bias import Block, block_bias
from attnkit.attention.kernels.call import Call, Kernel, Verdict, Where
from attnkit.attention.kernels.sdpa import fused, joined
from attnkit.masks import Mask
from attnkit.masks.once import once


class Windowed(Kernel):
    """For as many queries as keys, and a mask with limits `back` and `ahead`."""

    name = "windowed"

    def refusal(self, call: Call) -> str | None:
        """Needs a mask with a window."""
        if call.weights is not None:
            return call.why_own
        if call.num_queries != call.num_keys:
            return "fewer queries than keys"
        if call.mask.back is None or call.mask.ahead is None:
            return "the mask has no window"
        return None

    def suits(self, call: Call, where: Where) -> Verdict:
        """Used if the window is a small part of the keys."""
        assert call.mask.back is not None
        assert call.mask.ahead is not None
        reach = call.mask.back + call.mask.ahead + 1
        why = f"a query reaches {reach} of {call.num_keys} keys"
        if where.device != "cuda":
            return Verdict(call.num_keys >= thresholds.CPU_WINDOWS * reach, why)
        least = thresholds.GPU_WINDOW_KEYS
        if call.has_bias:
            least = thresholds.GPU_BIASED_WINDOW_KEYS
        if call.num_keys < least:
            return Verdict(False, f"shorter than {least} keys")
        return Verdict(call.num_keys >= thresholds.GPU_WINDOWS * reach, why)

    def __call__(self, call: Call) -> Tensor:
        B, H, num_tokens, _ = call.q.shape
        place = _Places.of(call.mask, num_tokens)
        group = H // call.k.shape[1]

        # Chunks take the place of sdpa's heads, and heads that of its batch, so chunks are views.
        # The chunks of the G heads that share keys and values follow one another.
        def by_group(of_heads: Tensor) -> Tensor:  # (N G, n, chunk, X) -> (N, n, G chunk, X)
            return of_heads.unflatten(0, (-1, group)).transpose(1, 2).flatten(2, 3)

        query, key, allowed = once(_rule, call.mask, num_tokens, call.q.device)
        added = joined(_bias(call, place, query, key), allowed)
        assert added is not None  # (1 or B, 1 or H, n, chunk, reach)
        alike = added.shape[:2] == (1, 1)  # the same for all examples and heads
        added = added.expand(*((1, group) if alike else (B, H)), *added.shape[2:]).flatten(0, 1)
        heads = fused(
            call,
            by_group(place.chunks(call.q)),
            place.with_neighbours(call.k),
            place.with_neighbours(call.v),
            by_group(added),
        )  # (B H_kv, n, G chunk, E)
        heads = heads.unflatten(2, (group, place.chunk)).transpose(1, 2).flatten(2, 3)
        return heads.flatten(0, 1).unflatten(0, (B, H))[:, :, :num_tokens]


@dataclass(frozen=True)
class _Places:
    """The positions of chunks and their neighbours.

    Attributes:
        num_tokens: T.
        chunk: queries per chunk.
        before: keys before a chunk that its queries may reach.
        after: keys after it.
    """

    num_tokens: int
    chunk: int
    before: int
    after: int

    @staticmethod
    def of(mask: Mask, num_tokens: int) -> _Places:
        """Makes chunks as long as the mask reaches."""
        assert mask.back is not None
        assert mask.ahead is not None
        chunk = -(-max(mask.back, mask.ahead, 1) // 16) * 16  # a multiple suitable for vector units
        return _Places(num_tokens, chunk, chunk if mask.back else 0, chunk if mask.ahead else 0)

    @property
    def num_chunks(self) -> int:
        """n, including a last one that is padded."""
        return -(-self.num_tokens // self.chunk)

    @property
    def missing(self) -> int:
        """Number of padding tokens in the last chunk."""
        return self.num_chunks * self.chunk - self.num_tokens

    def chunks(self, heads: Tensor) -> Tensor:
        """Queries (B, H, T, D) -> (B H, n, chunk, D)."""
        padded = F.pad(heads, (0, 0, 0, self.missing)) if self.missing else heads
        return padded.flatten(0, 1).unflatten(1, (self.num_chunks, self.chunk))

    def with_neighbours(self, heads: Tensor) -> Tensor:
        """Keys or values (B, H_kv, T, D) -> (B H_kv, n, reach, D)."""
        # Zeros beyond both ends; the rule never allows them, since their positions do not exist.
        padded = F.pad(heads, (0, 0, self.before, self.missing + self.after))
        reach = self.before + self.chunk + self.after
        return _Overlapping.apply(padded.flatten(0, 1), reach, self.chunk)


def _rule(mask: Mask, num_tokens: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the positions of queries (n, chunk, 1) and of keys (n, 1, reach), and which of them
    the mask allows (B or 1, 1, n, chunk, reach).
    """
    place = _Places.of(mask, num_tokens)
    start = torch.arange(place.num_chunks, device=device).view(-1, 1, 1) * place.chunk
    query = start + torch.arange(place.chunk, device=device).view(-1, 1)
    key = start + torch.arange(-place.before, place.chunk + place.after, device=device)
    exists = (key >= 0) & (key < num_tokens)
    batch = torch.arange(mask.batch_size, device=device).view(-1, 1, 1, 1)
    last = num_tokens - 1
    allowed = mask.allowed(batch, query.clamp(max=last), key.clamp(0, last)) & exists
    return query, key, allowed.view(-1, 1, *allowed.shape[-3:])


def _bias(call: Call, place: _Places, query: Tensor, key: Tensor) -> Tensor | None:
    """Returns (H, n, chunk, reach), or (H, 1, chunk, reach) if it only depends on distances, which
    are the same in all chunks.
    """
    if call.distance_bias is not None:
        reach = place.before + place.chunk + place.after
        block = Block(0, place.chunk, -place.before, reach)
        bias = block_bias(None, call.distance_bias, block, call.q.device, call.q.dtype)
        return None if bias is None else bias.unsqueeze(1)
    last = call.num_keys - 1  # tables have no entries beyond the sequence
    query, key = query.clamp(max=last), key.clamp(0, last)
    if call.bias is None or call.bias(query[0], key[0]) is None:
        return None
    bias: Any = torch.vmap(call.bias, out_dims=1)(query, key)
    return bias.to(call.q.dtype)


class _Overlapping(torch.autograd.Function):
    """Returns all windows of `size` tokens that begin at a multiple of `step`, which divides
    `size`, as a view: (N, T, D) -> (N, n, size, D). torch's `unfold` has a slow backward pass.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, size: int, step: int) -> Tensor:
        ctx.step = step
        return tokens.unfold(1, size, step).transpose(2, 3)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        parts = gradients[0].unflatten(2, (-1, ctx.step))  # (N, n, parts, step, D)
        N, n, num_parts, step, D = parts.shape
        d_tokens = parts.new_empty(N, n + num_parts - 1, step, D)
        d_tokens[:, :n] = parts[:, :, 0]
        d_tokens[:, n:] = 0
        for part in range(1, num_parts):
            d_tokens[:, part : part + n] += parts[:, :, part]
        return d_tokens.flatten(1, 2), None, None
