"""Heads that are trained to disagree. Li et al. 2018, arXiv:1810.10183, section 3.2.

loss = ... + weight mean_t 1/H² sum_ij cos(head_i, head_j)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.base import Prepared
from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("disagreement")
class Disagreement(MultiHead):
    """Multi-head attention with an auxiliary loss: the mean cosine between the outputs of two heads
    for a token, summed over the layers.

    Args:
        weight: factor of the auxiliary loss.
    """

    formula = "multi_head; loss + weight mean_t 1/H² Σ_ij cos(head_i, head_j)"
    paper = "Li et al. 2018, arXiv:1810.10183, section 3.2, disagreement on outputs"

    def __init__(self, dim: int, *, weight: float = 1.0, **options: Any) -> None:
        super().__init__(dim, **options)
        if weight < 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        self.weight = weight

    def auxiliary_losses(
        self, prepared: Prepared, heads: Tensor, real: Tensor | None
    ) -> dict[str, Tensor]:
        directions = F.normalize(heads.float(), dim=-1)
        # The sum over all pairs is the squared length of the sum.
        cosines = directions.sum(dim=1).square().sum(dim=-1) / self.num_heads**2  # (B, T)
        if real is not None:
            cosines = cosines * (real / real.sum().clamp(min=1)) * real.numel()
        return {"disagreement": self.weight * cosines.mean()}
