"""Additive attention. Bahdanau et al. 2014, arXiv:1409.0473, appendix A.1.2.

    score[i, j] = w_h . tanh(q_i + k_j)

The first attention, before dot products: a small network compares query and key. Its hidden layer
has T x S x D elements. It is computed for a few queries at a time, and recomputed for the gradient,
so that memory grows only with the map.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

NUMBERS_AT_ONCE = 2**26
"""Elements of the hidden layer that exist at a time, but at least those of one query."""


@ATTENTION.register("additive")
class Additive(MultiHead):
    """A hidden layer of D units computes the score of each pair of query and key."""

    formula = "softmax(w_hᵀ tanh(q_h + k_h)) v_h"
    paper = "Bahdanau et al. 2014, arXiv:1409.0473, appendix A.1.2"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.match = nn.Parameter(torch.randn(self.num_heads * self.head_dim) * self.scale)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """w . tanh(q + k) of every pair: (B, H, T, S)."""
        k = self.share_heads(k)
        match = self.match.to(q.dtype).view(self.num_heads, -1)
        if torch.compiler.is_compiling():  # it fuses this without storing the hidden layer
            hidden = (q.unsqueeze(3) + k.unsqueeze(2)).tanh()
            return (hidden * match[:, None, None]).sum(dim=-1)
        return _Match.apply(q, k, match)


class _Match(torch.autograd.Function):
    """scores[i, j] = w . tanh(q_i + k_j), with h = tanh(q_i + k_j) recomputed instead of stored:

    dw = sum_ij dS_ij h        dq_i = sum_j dS_ij w (1 - h^2)        dk_j = sum_i dS_ij w (1 - h^2)
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, match: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, match)
        column = match.view(1, len(match), 1, -1, 1)
        parts = [(hidden @ column).squeeze(-1) for _, hidden in _hidden(q, k)]
        return torch.cat(parts, dim=2).to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, match = ctx.saved_tensors
        exact = torch.promote_types(q.dtype, torch.float32)
        d_q, d_k = torch.empty_like(q), torch.zeros_like(k, dtype=exact)
        d_match = torch.zeros_like(match, dtype=exact)
        for queries, hidden in _hidden(q, k):
            d_scores = gradients[0][:, :, queries].unsqueeze(-1)
            d_match += (hidden * d_scores).sum(dim=(0, 2, 3), dtype=exact)
            slope = hidden.square_().neg_().add_(1)
            d_hidden = slope.mul_(match[:, None, None]).mul_(d_scores)
            d_q[:, :, queries] = d_hidden.sum(dim=3)
            d_k += d_hidden.sum(dim=2, dtype=exact)
        return d_q, d_k.to(k.dtype), d_match.to(match.dtype)


def _hidden(q: Tensor, k: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields the hidden layer of some queries at a time: their slice, and (B, H, some, S, D)."""
    at_once = max(NUMBERS_AT_ONCE // max(k.numel(), 1), 1)
    for start in range(0, q.shape[2], at_once):
        queries = slice(start, start + at_once)
        yield queries, (q[:, :, queries].unsqueeze(3) + k.unsqueeze(2)).tanh_()
