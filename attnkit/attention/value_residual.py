"""Value residual: every layer mixes the values of the first one into its own. Zhou et al. 2024,
arXiv:2410.17897, section 3.

head_h = softmax(q_h k_hᵀ / sqrt(D)) (a v_h + b v1_h)      with v1 the values of the first layer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.attention.multi_head import MultiHead
from attnkit.attention.stream import Stream
from attnkit.registry import ATTENTION

FIRST = "first values"


@ATTENTION.register("value_residual")
class ValueResidual(MultiHead):
    """Multi-head attention whose values include those of the first layer. The first layer of this
    mechanism is plain; each one above it learns two factors, initially one half.
    """

    roles = frozenset({"self"})
    formula = "concat_h softmax(q_h k_hᵀ / √D) (a v_h + b v1_h),  v1 of the first layer"
    paper = "Zhou et al. 2024, arXiv:2410.17897, section 3"

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.register_parameter("shares", None)  # a and b, of a layer above the first

    def above(self, below: Sequence[Attention]) -> None:
        first = next((each for each in below if isinstance(each, ValueResidual)), None)
        if first is None:
            return
        if (first.num_heads, first.head_dim) != (self.num_heads, self.head_dim):
            raise ValueError(
                f"value_residual has {self.num_heads} heads of width {self.head_dim}, and layer "
                f"{first.layer}, whose values it adds, {first.num_heads} of width {first.head_dim}"
            )
        self.shares = nn.Parameter(torch.full((2,), 0.5))

    def exchange(self, k: Tensor, v: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        if self.shares is None:
            stream.shared[FIRST] = v
            return k, v
        own, first = self.shares.to(v.dtype).unbind()
        return k, own * v + first * stream.shared[FIRST]
