"""1.5-entmax. Peters et al. 2019, arXiv:1905.05702, section 3 and algorithm 2.

    weights = relu(z / 2 - tau)^2, with tau such that they sum to 1        z = q kᵀ / sqrt(D)

Between softmax and sparsemax: smooth, with exact zeros.
"""

import torch
from torch import Tensor

from attnkit.attention.sparsemax import Sparsemax, below_largest
from attnkit.registry import ATTENTION


@ATTENTION.register("entmax15")
class Entmax15(Sparsemax):
    """Weights that sum to 1, with exact zeros, less sparse than those of sparsemax."""

    rows_alone = True
    formula = "relu(q_h k_hᵀ / 2√D - τ)² v_h,  τ: weights sum to 1"
    paper = "Peters et al. 2019, arXiv:1905.05702, algorithm 2"

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Returns the weights over the allowed keys.

        With m the mean of the r largest scores and s the sum of their squared deviations, tau is
        m - sqrt((1 - s) / r); r is the largest number for which tau is below all r scores.
        """
        z = below_largest(scores / 2, allowed)
        ranked = z.sort(dim=-1, descending=True).values
        rank = torch.arange(1, z.shape[-1] + 1, device=z.device)
        mean = ranked.cumsum(dim=-1) / rank
        spread = (ranked.square().cumsum(dim=-1) - rank * mean.square()).clamp(min=0)
        tau = mean - ((1 - spread) / rank).clamp(min=0).sqrt()
        size = (tau <= ranked).sum(dim=-1, keepdim=True)
        mean, spread = mean.gather(-1, size - 1), spread.gather(-1, size - 1)
        # Only the chosen root is computed: that of a clamped zero has no gradient.
        tau = mean - ((1 - spread) / size).clamp(min=torch.finfo(z.dtype).tiny).sqrt()
        return (z - tau).relu().square()
