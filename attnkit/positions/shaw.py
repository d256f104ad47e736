"""Relative position vectors for keys. Shaw et al. 2018, arXiv:1803.02155, section 3.2.

    score[i, j] = q_i . (k_j + r[clip(j - i)]) / sqrt(D)

Differs from the paper in two ways: values get no vectors, which cost no BLEU in its section 4.3,
and heads do not share their vectors.
"""

import torch
from torch import Tensor, nn

from attnkit.masks import Grid
from attnkit.positions.base import AttentionPosition
from attnkit.registry import POSITIONS


@POSITIONS.register("shaw")
class Shaw(AttentionPosition):
    """A learned vector for each distance, added to the key; any length.

    Args:
        max_distance: all longer distances share the last vector of their side.
    """

    acts_on = "content"

    def __init__(self, num_heads: int, head_dim: int, *, max_distance: int = 16) -> None:
        super().__init__(num_heads, head_dim)
        if max_distance < 1:
            raise ValueError(f"max_distance must be at least 1, got {max_distance}")
        self.max_distance = max_distance
        table = torch.randn(num_heads, head_dim, 2 * max_distance + 1)
        self.table = nn.Parameter(0.02 * table)

    def adjust(self, scores: Tensor, q: Tensor, k: Tensor, grid: Grid) -> Tensor:
        """Adds q r, looked up by distance."""
        by_distance = (q * self.head_dim**-0.5) @ self.table.to(q.dtype)  # (B, H, T, 2 m + 1)
        distance = (grid.key - grid.query).clamp(-self.max_distance, self.max_distance)
        index = (distance + self.max_distance).expand(scores.shape)
        return scores + by_distance.gather(-1, index)
