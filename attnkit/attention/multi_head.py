"""Multi-head attention: several maps in parallel. Vaswani et al. 2017, arXiv:1706.03762, section
3.2.2.

head_h = softmax(q_h k_hᵀ / sqrt(D)) v_h
output = concat(head_1, ..., head_H) W_o
"""

from attnkit.attention.score_attention import ScoreAttention
from attnkit.registry import ATTENTION


@ATTENTION.register("multi_head")
class MultiHead(ScoreAttention):
    """H heads in parallel, each with its own queries, keys and values.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head; null: `dim / num_heads`.
        dropout: share of attention weights that are dropped in training.
        bias: add a bias vector to the four projections.
    """

    formula = "concat_h softmax(q_h k_hᵀ / √D) v_h"
    paper = "Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, dropout=dropout, bias=bias)
