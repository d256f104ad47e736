"""Softpick. Zuhri et al. 2025, arXiv:2504.20966

    weight[i, j] = relu(exp(s_ij) - 1) / (sum_l |exp(s_il) - 1| + eps)

A rectified softmax: a key with a score of at most 0 gets no weight, so that a head that finds
nothing need not attend to the first token. Negative scores still count in the denominator.
"""

import torch
from torch import Tensor

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

EPSILON = 1e-6
"""Keeps the denominator positive if all scores are 0."""


@ATTENTION.register("softpick")
class Softpick(MultiHead):
    """Attention with exact zeros whose rows may sum to less than 1."""

    map_rows = "unnormalised"
    rows_alone = True
    smooth = False
    formula = "relu(exp(s) - 1) / Σ |exp(s) - 1| v_h,  s = q_h k_hᵀ / √D"
    paper = "Zuhri et al. 2025, arXiv:2504.20966"

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Rectified weights of the allowed keys."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if allowed is not None:
            scores = scores.masked_fill(~allowed, 0.0)  # adds 0 to the denominator, where m is 0
        # Numerator and denominator are divided by exp(m) to avoid overflow.
        largest = scores.amax(dim=-1, keepdim=True).clamp(min=0.0).detach()
        shifted = (scores - largest).exp() - (-largest).exp()
        total = shifted.abs().sum(dim=-1, keepdim=True) + EPSILON * (-largest).exp()
        weights = shifted.relu() / total
        return weights if allowed is None else weights.masked_fill(~allowed, 0.0)
