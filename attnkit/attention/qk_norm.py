"""Attention with normalised queries and keys.

    score = g cos(q, k)        with g = gain_h sqrt(D), and gain_h = 1 at the start

Henry et al. 2020, arXiv:2010.04245, section 3.1, normalise both to a fixed length (`l2`); their one
learned g is a gain per head here. Dehghani et al. 2023, arXiv:2302.05442, section 2, subtract the
mean first (`layer_norm`), which is faster on a CPU.

Only the input of the scores differs, so fused kernels apply.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("qk_norm")
class QKNorm(MultiHead):
    """Multi-head attention whose scores are cosines times a gain, so they are bounded.

    Args:
        norm: `l2` divides by the length, `layer_norm` subtracts the mean of the features first.
        learned_gain: learn a gain per head; otherwise it is 1, and the largest score is sqrt(D).
    """

    formula = "softmax(gain_h √D cos(q_h, k_h)) v_h"
    paper = "Henry et al. 2020, arXiv:2010.04245, section 3.1"

    def __init__(
        self,
        dim: int,
        *,
        norm: Literal["l2", "layer_norm"] = "l2",
        learned_gain: bool = True,
        **options,
    ) -> None:
        super().__init__(dim, **options)
        self.norm = norm
        self.gain = nn.Parameter(torch.ones(self.num_heads)) if learned_gain else None

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Scales q and k to lengths whose product is gain x D, then applies positions."""
        if self.norm == "layer_norm":
            q, k = F.layer_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:])
        else:
            q, k = F.normalize(q, dim=-1) * self.head_dim, F.normalize(k, dim=-1)
        if self.gain is not None:
            q = q * self.gain.to(q.dtype).view(-1, 1, 1)
        return super().place(q, k, seen)
