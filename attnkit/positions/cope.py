"""Contextual position encoding. Golovneva et al. 2024, arXiv:2405.18719, section 4.

    score[i, j] = q_i . k_j / sqrt(D) + q_i . e[p_ij],   p_ij = sum_{j <= l <= i} sigmoid(score_il)

A query decides by its scores which tokens it counts, so that "the third noun back" is a position.
Between two whole counts, their vectors are interpolated. Masked and later tokens are not counted; a
key ahead of its query has count 0.
"""

import torch
from torch import Tensor, nn

from attnkit.masks import Grid
from attnkit.positions.base import AttentionPosition
from attnkit.registry import POSITIONS


@POSITIONS.register("cope")
class CoPE(AttentionPosition):
    """Each query counts the tokens that it selects, and adds a score for each count.

    Args:
        max_position: larger counts are clipped to this.
    """

    acts_on = "content"
    sees_mask = True

    def __init__(self, num_heads: int, head_dim: int, *, max_position: int = 64) -> None:
        super().__init__(num_heads, head_dim)
        if max_position < 1:
            raise ValueError(f"max_position must be at least 1, got {max_position}")
        self.max_position = max_position
        self.table = nn.Parameter(0.02 * torch.randn(head_dim, max_position + 1))

    def adjust(self, scores: Tensor, q: Tensor, k: Tensor, grid: Grid) -> Tensor:
        """Adds q e[p], with p counted in float32."""
        exact = torch.promote_types(scores.dtype, torch.float32)
        counted = grid.key <= grid.query
        if grid.allowed is not None:
            counted = counted & grid.allowed
        gates = scores.to(exact).sigmoid() * counted
        count = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=self.max_position)
        below = count.detach().floor()
        above = (below + 1).clamp(max=self.max_position)
        of_count = q.to(exact) @ self.table.to(exact)  # (B, H, T, P)
        low, high = (of_count.gather(-1, end.long()) for end in (below, above))
        added = low + (count - below) * (high - low)
        return scores + added.to(scores.dtype)
