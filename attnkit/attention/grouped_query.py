"""Grouped-query attention. Ainslie et al. 2023, arXiv:2305.13245, section 2.2.

head_h = softmax(q_h k_gᵀ / sqrt(D)) v_g        with g the group of head h
"""

from attnkit.attention.score_attention import ScoreAttention
from attnkit.registry import ATTENTION


@ATTENTION.register("grouped_query")
class GroupedQuery(ScoreAttention):
    """Heads in groups, each with one set of keys and values, which makes the cache smaller.

    Args:
        num_heads: number H of query heads.
        num_kv_heads: number of groups; must divide `num_heads`.
        head_dim: width D of a head; null: `dim / num_heads`.
        dropout: share of attention weights that are dropped in training.
        bias: add a bias vector to the four projections.
    """

    formula = "concat_h softmax(q_h k_gᵀ / √D) v_g,  g = group of h"
    paper = "Ainslie et al. 2023, arXiv:2305.13245, section 2.2"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int = 2,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            dropout=dropout,
            bias=bias,
        )
