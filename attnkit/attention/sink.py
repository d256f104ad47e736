"""A softmax whose weights may all be small.

    weight[i, j] = exp(s_ij) / (exp(b_h) + sum_l exp(s_il))

Miller 2023 ("Attention Is Off By One", evanmiller.org) adds 1 to the denominator, which is b = 0:
a head that finds nothing need not attend to some other token, such as the first (the attention sink
of Xiao et al. 2023, arXiv:2309.17453). OpenAI 2025, arXiv:2508.10925, learn b for each head.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("sink")
class Sink(MultiHead):
    """Each head has one more key without a value: its weights sum to less than 1.

    Args:
        learned: learn the score of that key for each head, initially 0; otherwise it is 0, which is
            the off-by-one softmax.
    """

    map_rows = "unnormalised"
    rows_alone = True
    formula = "exp(s) / (exp(b_h) + Σ exp(s)) v_h,  s = q_h k_hᵀ / √D"
    paper = "Miller 2023, evanmiller.org; learned: OpenAI 2025, arXiv:2508.10925"

    def __init__(self, dim: int, *, learned: bool = True, **options) -> None:
        super().__init__(dim, **options)
        self.empty = nn.Parameter(torch.zeros(self.num_heads)) if learned else None

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Applies softmax over the allowed keys and the empty key, which is then dropped."""
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min / 2)
        empty = scores.new_zeros(self.num_heads) if self.empty is None else self.empty
        empty = empty.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat((scores, empty), dim=-1).softmax(dim=-1)[..., :-1]
