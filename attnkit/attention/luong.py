"""Multiplicative attention. Luong et al. 2015, arXiv:1508.04025, section 3.1, score "general".

    score[i, j] = x_i W_h c_j        weights = softmax of the scores

One matrix between the two tokens, without a projection of keys and without a factor 1 / sqrt(D).
Each head uses its own part of the features of c_j.
"""

from torch import Tensor

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("luong")
class Luong(MultiHead):
    """Bilinear scores: the keys are the tokens themselves."""

    projections = frozenset(("query", "value", "output"))
    formula = "softmax(x W_h cᵀ) v_h"
    paper = "Luong et al. 2015, arXiv:1508.04025, section 3.1"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        if self.num_heads * self.head_dim != dim:
            raise ValueError(
                f"luong uses the tokens themselves as keys, so head_dim {self.head_dim} times "
                f"num_heads {self.num_heads} must be dim {dim}"
            )
        self.scale = 1.0

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Each head's part of the tokens as keys, projected values: (B, H, S, D) each."""
        _, v = super().project_context(context)
        return context.to(v.dtype).unflatten(-1, (self.num_heads, -1)).transpose(1, 2), v
