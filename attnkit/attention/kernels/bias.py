"""The bias of a block of the map: some queries, some keys, all heads.

If a bias only depends on distances, a block of T x S needs T + S - 1 of them; they are computed
once and placed along the diagonals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnkit.attention.kernels.call import Bias, Call, DistanceBias
from attnkit.masks.once import positions


@dataclass(frozen=True)
class Block:
    """A part of the map: `num_queries` queries from position `first_query` on, `num_keys` keys from
    `first_key` on.
    """

    first_query: int | Tensor
    num_queries: int
    first_key: int | Tensor
    num_keys: int


def block_bias(
    bias: Bias | None,
    distance_bias: DistanceBias | None,
    block: Block,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor | None:
    """Returns the bias of a block: (H, T, S), or None.

    Args:
        bias: computes it from positions.
        distance_bias: computes it from distances; replaces `bias` if given.
        block: the queries and keys.
        device: device of the result.
        dtype: dtype of the result; None: as computed.
    """
    T, S, query, key = block.num_queries, block.num_keys, block.first_query, block.first_key
    if distance_bias is not None:
        values = distance_bias(positions(key - query - T + 1, T + S - 1, device))
        return _Diagonals.apply(values, T, S, dtype or values.dtype)
    if bias is None:
        return None
    queries, keys = positions(query, T, device), positions(key, S, device)
    added = bias(queries.view(-1, 1), keys.view(1, -1))
    return added if added is None or dtype is None else added.to(dtype)


def whole_bias(call: Call, dtype: torch.dtype | None = None) -> Tensor | None:
    """Returns `block_bias` of all queries and keys of a call."""
    T, S = call.num_queries, call.num_keys
    block = Block(call.mask.first_query(T, S), T, call.mask.first_key, S)
    return block_bias(call.bias, call.distance_bias, block, call.q.device, dtype)


class _Diagonals(torch.autograd.Function):
    """Places one number per diagonal, (H, T + S - 1), into a block (H, T, S), the first one in the
    lower left corner. The backward pass sums along diagonals, without atomic additions.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, num_rows: int, num_columns: int, dtype: torch.dtype
    ) -> Tensor:
        ctx.dtype = values.dtype
        values = values.to(dtype).contiguous()
        # Not `unfold`, which a compiler for dynamic lengths traces for one length.
        size, stride = (len(values), num_rows, num_columns), (values.stride(0), 1, 1)
        return values.as_strided(size, stride).flip(1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        H, T, S = gradients[0].shape
        # Written in rows of T + S - 1 and read in rows that are one longer, each row is shifted
        # left by one more than the row above it: diagonals become columns.
        sheared = gradients[0].new_zeros(H, T * (T + S))
        rows = sheared[:, T - 1 : T - 1 + T * (T + S - 1)].view(H, T, T + S - 1)
        rows[:, :, :S] = gradients[0]
        columns = sheared.view(H, T, T + S).sum(
            1, dtype=torch.promote_types(ctx.dtype, torch.float32)
        )
        return columns[:, :-1].to(ctx.dtype), None, None, None
