"""Exclusive self-attention (XSA). Zhai 2026, arXiv:2603.09078.

    head_i = y_i - (y_i . u_i) u_i        y_i = softmax(q kᵀ / sqrt(D)) v,  u_i = v_i / |v_i|

The output of attention includes the token's own value, which the residual stream contains anyway.
Here the component of each head along the token's own value is removed.
"""

from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("xsa")
class XSA(MultiHead):
    """Multi-head attention without the component along the token's own value."""

    roles = frozenset(("self",))
    formula = "y - (y · v̂) v̂,  y = softmax(q_h k_hᵀ / √D) v_h"
    paper = "Zhai 2026, arXiv:2603.09078"

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Removes the component of each head along the token's own value, then projects."""
        own = F.normalize(self.project_context(x)[1].to(heads.dtype), dim=-1)
        heads = heads - (heads * own).sum(dim=-1, keepdim=True) * own
        return super().merge(heads, x)
