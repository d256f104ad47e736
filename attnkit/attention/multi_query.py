"""Multi-query attention. Shazeer 2019, arXiv:1911.02150, section 3.

head_h = softmax(q_h kᵀ / sqrt(D)) v            one k and v for all heads
"""

from attnkit.attention.score_attention import ScoreAttention
from attnkit.registry import ATTENTION


@ATTENTION.register("multi_query")
class MultiQuery(ScoreAttention):
    """Many query heads share one set of keys and values: the smallest key-value cache.

    Args:
        num_heads: number H of query heads.
        head_dim: width D of a head; null: `dim / num_heads`.
        dropout: share of attention weights that are dropped in training.
        bias: add a bias vector to the four projections.
    """

    formula = "concat_h softmax(q_h kᵀ / √D) v"
    paper = "Shazeer 2019, arXiv:1911.02150, section 3"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(
            dim, num_heads=num_heads, num_kv_heads=1, head_dim=head_dim, dropout=dropout, bias=bias
        )
