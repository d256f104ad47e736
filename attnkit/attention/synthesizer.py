"""Factorized random synthesizer. Tay et al. 2020, arXiv:2005.00743

    weights = softmax(R1_h R2_hᵀ)        R1, R2: r learned numbers for each position

A map that does not depend on the tokens. It shows how much of attention is content and how much is
position.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Grid
from attnkit.registry import ATTENTION


@ATTENTION.register("synthesizer")
class Synthesizer(MultiHead):
    """Learned scores for each pair of positions, the same for all texts.

    Args:
        rank: numbers r for each position and head.
        max_tokens: positions in the tables. A longer sequence raises a `ValueError`.
    """

    projections = frozenset(("value", "output"))
    roles = frozenset(("self",))
    knows_order = True
    position_kinds = frozenset(("embeddings", "scores"))
    formula = "softmax(R1_h R2_hᵀ) v_h,  R1, R2 learned by position"
    paper = "Tay et al. 2020, arXiv:2005.00743"

    def __init__(self, dim: int, *, rank: int = 4, max_tokens: int = 1024, **options) -> None:
        super().__init__(dim, **options)
        if rank < 1 or max_tokens < 1:
            raise ValueError(f"rank {rank} and max_tokens {max_tokens} must be at least 1")
        self.max_tokens = max_tokens
        tables = rank**-0.25 * torch.randn(2, self.num_heads, max_tokens, rank)
        self.of_queries, self.of_keys = map(nn.Parameter, tables)

    def scores(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, grid: Grid
    ) -> Tensor:
        """Products of the two tables at the positions of the call: (B, H, T, S)."""
        if grid.num_keys > self.max_tokens:
            raise ValueError(
                f"synthesizer has scores for {self.max_tokens} tokens but got {grid.num_keys}; "
                "set its option max_tokens"
            )
        # A query before the first key has no allowed key.
        rows = self.of_queries[:, grid.query.flatten().clamp(min=0)]
        scores = rows @ self.of_keys[:, : grid.num_keys].mT
        return scores.to(q.dtype).expand(q.shape[0], -1, -1, -1)
