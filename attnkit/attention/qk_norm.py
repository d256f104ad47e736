"""Attention with normalised queries and keys. Henry et al. 2020, arXiv:2010.04245, section 3.1.

    score = g cos(q, k)        with g = gain_h sqrt(D), and gain_h = 1 at the start

Queries are brought to length gain x D and keys to length 1 before they meet, so that the standard
scores / sqrt(D) give the cosine above: only what comes before the scores differs, and fused kernels
still fit. Where the paper has one learned g, here each head has its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("qk_norm")
class QKNorm(MultiHead):
    """Multi-head attention whose scores are cosines times a gain, so that they cannot grow without
    bound.

    Args:
        learned_gain: learn the gain of each head; otherwise it stays 1, which makes the largest
            score sqrt(D).
    """

    formula = "softmax(gain_h √D cos(q_h, k_h)) v_h"
    paper = "Henry et al. 2020, arXiv:2010.04245, section 3.1"

    def __init__(self, dim: int, *, learned_gain: bool = True, **options) -> None:
        super().__init__(dim, **options)
        self.gain = nn.Parameter(torch.ones(self.num_heads)) if learned_gain else None

    def place(self, q: Tensor, k: Tensor, seen: int = 0) -> tuple[Tensor, Tensor]:
        """Brings queries to length gain x D and keys to length 1, then turns both."""
        gain = self.head_dim if self.gain is None else self.gain.view(-1, 1, 1) * self.head_dim
        q, k = F.normalize(q, dim=-1) * gain, F.normalize(k, dim=-1)
        return super().place(q, k, seen)
