"""Single-head attention. Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.

output = softmax(q kᵀ / sqrt(D)) v W_o
"""

from attnkit.attention.score_attention import ScoreAttention
from attnkit.registry import ATTENTION


@ATTENTION.register("single_head")
class SingleHead(ScoreAttention):
    """One head as wide as the model: each token takes one weighted mean of the values.

    Args:
        head_dim: width D of the head; null: as wide as the model.
        dropout: share of attention weights that are dropped in training.
        bias: add a bias vector to the four projections.
    """

    formula = "softmax(q kᵀ / √D) v"
    paper = "Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1"

    def __init__(
        self, dim: int, *, head_dim: int | None = None, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__(dim, num_heads=1, head_dim=head_dim, dropout=dropout, bias=bias)
