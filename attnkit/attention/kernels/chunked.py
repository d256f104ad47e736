"""Attention in chunks of queries, recomputed in the backward pass: memory grows with one chunk's
part of the map. For biases, and for own maps, that would need memory quadratic in the length. There
are few, large chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attnkit.attention.kernels import thresholds
from attnkit.attention.kernels.bias import Block, block_bias
from attnkit.attention.kernels.call import Call, Kernel, Verdict, Where, share_heads
from attnkit.attention.kernels.sdpa import fused, joined
from attnkit.masks import NoMask


class Chunked(Kernel):
    """sdpa over chunks of queries; a mechanism's own map row by row."""

    name = "chunked"

    def refusal(self, call: Call) -> str | None:
        """Rows of a map must be independent."""
        return call.why_own if call.weights is not None and call.row_weights is None else None

    def suits(self, call: Call, where: Where) -> Verdict:
        """Used if the whole map would need too much memory."""
        if not call.has_bias and call.weights is None:
            return Verdict(False, "no memory grows with the square of the length")
        size = bytes_of_a_row(call) * call.num_queries
        limit = thresholds.WHOLE_MAP_BYTES
        if size <= limit:
            return Verdict(False, f"all pairs take less than {limit / 2**30:g} GiB")
        return Verdict(True, f"all pairs would take {size / 2**30:.1f} GiB; chunks of queries")

    def __call__(self, call: Call) -> Tensor:
        rows = max(1, thresholds.CHUNK_BYTES // bytes_of_a_row(call))
        rows = -(-rows // 64) * 64 if rows > 64 else rows
        chunks = []
        for start in range(0, call.num_queries, rows):
            stop = min(start + rows, call.num_queries)
            if torch.is_grad_enabled():
                chunk = checkpoint(
                    _chunk,
                    call,
                    start,
                    stop,
                    call.q[:, :, start:stop],
                    call.k,
                    call.v,
                    use_reentrant=False,
                    preserve_rng_state=call.dropout > 0,
                )
            else:
                chunk = _chunk(call, start, stop, call.q[:, :, start:stop], call.k, call.v)
            chunks.append(chunk)
        return torch.cat(chunks, dim=2)


def bytes_of_a_row(call: Call) -> int:
    """Returns the memory of one query of all heads for its part of the bias, or of its own map."""
    examples = call.q.shape[0] if call.weights is not None or call.mask.batch_size > 1 else 1
    pairs = examples * call.q.shape[1] * call.num_keys
    return pairs * call.q.element_size()


def _chunk(call: Call, start: int, stop: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes queries `start` to `stop` over the keys within reach: (B, H, stop - start, E)."""
    offset = call.num_keys - call.num_queries
    first, last = start + offset, stop - 1 + offset  # absolute positions
    back, ahead = call.mask.back, call.mask.ahead
    low = 0 if back is None else max(0, min(first - back, call.num_keys - 1))
    high = call.num_keys if ahead is None else max(low + 1, min(last + ahead + 1, call.num_keys))
    k, v = k[:, :, low:high], v[:, :, low:high]
    block = Block(first, stop - start, low, high - low)
    own = call.weights is not None
    dtype = None if own else q.dtype
    bias = block_bias(call.bias, call.distance_bias, block, q.device, dtype)
    allowed = None if isinstance(call.mask, NoMask) else _allowed(call, block, q.device)
    if not own:
        return fused(call, q, k, v, joined(bias, allowed))
    assert call.row_weights is not None
    weights = call.row_weights(q, k, bias, allowed)
    if allowed is not None:
        weights = weights.masked_fill(~allowed, 0.0)
    if call.dropout > 0:
        weights = F.dropout(weights, call.dropout)
    return weights.to(v.dtype) @ share_heads(v, weights.shape[1])


def _allowed(call: Call, block: Block, device: torch.device) -> Tensor:
    """Returns the mask of a block: (B or 1, 1, t, s)."""
    batch = torch.arange(call.mask.batch_size, device=device).view(-1, 1, 1, 1)
    query = torch.arange(block.num_queries, device=device).view(1, 1, -1, 1) + block.first_query
    key = torch.arange(block.num_keys, device=device).view(1, 1, 1, -1) + block.first_key
    return call.mask.allowed(batch, query, key)
