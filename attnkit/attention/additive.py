"""Additive attention. Bahdanau et al. 2014, arXiv:1409.0473, appendix A.1.2.

    score[i, j] = w_h . tanh(q_i + k_j)

The first attention, before dot products: a small network compares query and key. Written out it
takes T x S x D numbers, so it is for short sequences.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("additive")
class Additive(MultiHead):
    """A hidden layer of D units for each pair of query and key says how well they match."""

    formula = "softmax(w_hᵀ tanh(q_h + k_h)) v_h"
    paper = "Bahdanau et al. 2014, arXiv:1409.0473, appendix A.1.2"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.match = nn.Parameter(torch.randn(self.num_heads * self.head_dim) * self.scale)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """w . tanh(q + k) of every pair: (B, H, T, S)."""
        hidden = (q.unsqueeze(3) + self.share_heads(k).unsqueeze(2)).tanh()  # (B, H, T, S, D)
        match = self.match.to(hidden.dtype).view(self.num_heads, 1, -1, 1)
        return (hidden @ match).squeeze(-1)
