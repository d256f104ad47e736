"""Selective attention. Leviathan et al. 2024, arXiv:2410.02703

    F[i, j] = sum_{l < i} relu(score_1[l, j])        not for j = l, nor for the first token
    weights = softmax(scores - F)

A token can hide earlier tokens from later ones: positive scores of the first head are subtracted
from the scores of later queries, in all heads. This needs no parameters.
"""

from torch import Tensor

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal, Grid, Mask, Padding
from attnkit.registry import ATTENTION


@ATTENTION.register("selective")
class Selective(MultiHead):
    """Softmax attention in which tokens can hide earlier tokens from later ones."""

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True
    formula = "softmax(s_h - F) v_h,  F[i, j] = Σ_{l<i} relu(s_1[l, j])"
    paper = "Leviathan et al. 2024, arXiv:2410.02703"

    def carry(self, q: Tensor, x: Tensor) -> Tensor:
        """Queries of the first head, which hide tokens from later rows: (B, 1, T, D)."""
        return q[:, :1]

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, mask: Mask, grid: Grid
    ) -> Tensor:
        """Softmax of the scores minus the penalties of earlier tokens: (B, H, T, S)."""
        assert grid.carried is not None
        every = grid.all_queries()  # (S, S): all tokens so far
        vetoes = (self.scale * grid.carried @ k[:, :1].mT).relu()  # (B, 1, S, S)
        free = (every.query == every.key) | (every.key == 0)  # the token itself, and the first one
        vetoes = vetoes.masked_fill(free, 0.0)
        if every.allowed is not None:
            vetoes = vetoes.masked_fill(~every.allowed, 0.0)
        if all(isinstance(part, Causal | Padding) for part in mask.parts()):
            hidden = vetoes.cumsum(dim=-2) - vetoes  # by earlier tokens
            hidden = hidden[:, :, grid.num_keys - grid.num_queries :]
        else:  # by allowed earlier tokens
            seen = mask.dense(grid.num_queries, grid.num_keys, grid.device)
            hidden = (seen & (grid.key < grid.query)).to(vetoes.dtype) @ vetoes
        return self.normalize_under(self.biased_scores(q, k, grid) - hidden, grid)
