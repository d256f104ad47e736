"""Average attention network. Zhang et al. 2018, arXiv:1805.00631

    g_i = mean of v_j over the tokens j that i may see
    output = i ⊙ x + f ⊙ (g W_o)        i, f = sigmoid([x; g W_o] W)

The simplest map: equal weights. A gate combines the mean with the token itself. The paper's
feed-forward network on g is a linear layer here, as in every mechanism of this kit.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("average")
class Average(MultiHead):
    """The gated mean of the values of all allowed tokens, without queries and keys."""

    projections = frozenset(("value", "output"))
    rows_alone = True
    position_kinds = frozenset(("embeddings",))
    formula = "i ⊙ x + f ⊙ mean(v) W_o,  i, f = sigmoid([x; mean(v) W_o] W)"
    paper = "Zhang et al. 2018, arXiv:1805.00631"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.gate = nn.Linear(2 * dim, 2 * dim)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Zeros (B, H, T, S), whose softmax is the mean."""
        return q.new_zeros(*q.shape[:3], k.shape[2])

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Combines token and mean by gates."""
        mean = super().merge(heads, x)
        x = x.to(mean.dtype)
        own, taken = self.gate(torch.cat((x, mean), dim=-1)).sigmoid().chunk(2, dim=-1)
        return own * x + taken * mean
