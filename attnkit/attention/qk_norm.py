"""Attention with normalised queries and keys. Henry et al. 2020, arXiv:2010.04245, section 3.1.

    score = g cos(q, k)        with g = gain_h sqrt(D), and gain_h = 1 at the start

Both are brought to length sqrt(D) before they meet, so that the standard scores / sqrt(D) give the
cosine above: only the projections differ, and fused kernels still fit. Where the paper has one
learned g, here each head has its own.
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

    def project_query(self, x: Tensor) -> Tensor:
        """Queries of length gain x sqrt(D): (B, T, C) -> (B, H, T, D)."""
        q = super().project_query(x)
        q = F.rms_norm(q, q.shape[-1:])
        return q if self.gain is None else q * self.gain.to(q.dtype).view(-1, 1, 1)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of length sqrt(D), and values as they are: (B, S, C) -> (B, H, S, D) each."""
        k, v = super().project_context(context)
        return F.rms_norm(k, k.shape[-1:]), v
