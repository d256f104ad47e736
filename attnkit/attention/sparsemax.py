"""Sparsemax. Martins and Astudillo 2016, arXiv:1602.02068, proposition 1 and algorithm 1.

    weights = relu(z - tau), with tau such that they sum to 1        z = q kᵀ / sqrt(D)

The projection of the scores onto the simplex: keys with low scores get exactly zero.
"""

import torch
from torch import Tensor

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("sparsemax")
class Sparsemax(MultiHead):
    """Weights that sum to 1, with exact zeros."""

    smooth = False
    rows_alone = True
    formula = "relu(q_h k_hᵀ / √D - τ) v_h,  τ: weights sum to 1"
    paper = "Martins and Astudillo 2016, arXiv:1602.02068, algorithm 1"

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Projects the scores onto the simplex of the allowed keys."""
        z = below_largest(scores, allowed)
        ranked = z.sort(dim=-1, descending=True).values
        rank = torch.arange(1, z.shape[-1] + 1, device=z.device)
        total = ranked.cumsum(dim=-1)
        support = (1 + rank * ranked > total).sum(dim=-1, keepdim=True)
        return (z - (total.gather(-1, support - 1) - 1) / support).relu()


def below_largest(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Subtracts the largest allowed score, in float32 at least; where nothing is allowed, returns
    -1 or less. A score 1 below the largest has no weight.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if allowed is None:
        return (scores - scores.amax(dim=-1, keepdim=True)).clamp(min=-1)
    lowest = torch.finfo(scores.dtype).min / 2
    largest = scores.masked_fill(~allowed, lowest).amax(dim=-1, keepdim=True)
    return (scores - largest).clamp(min=-1).masked_fill(~allowed, -1.0)
