"""Gated attention. Qiu et al. 2025, arXiv:2505.06708, section 2.2 (the gate at G1).

    head_h = sigmoid(x W_g)_h * softmax(q_h k_hᵀ / sqrt(D)) v_h

Only the output differs, so fused kernels apply.
"""

from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("gated")
class Gated(MultiHead):
    """Multi-head attention with a sigmoid gate on every output feature, computed from the query.

    Args:
        least: least value of a gate; 0.5 gives gates that close halfway, 1 leaves them all open.
    """

    formula = "sigmoid(x W_g)_h ⊙ softmax(q_h k_hᵀ / √D) v_h"
    paper = "Qiu et al. 2025, arXiv:2505.06708, section 2.2"

    def __init__(self, dim: int, *, least: float = 0.0, **options) -> None:
        super().__init__(dim, **options)
        if not 0 <= least <= 1:
            raise ValueError(f"least must be in [0, 1], got {least}")
        self.least = least
        self.gate = nn.Linear(dim, self.num_heads * self.head_dim, bias=False)

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Gates each feature of each head, then projects them: (B, T, C)."""
        gate = self.least + (1 - self.least) * self.gate(x).sigmoid()
        return super().merge(heads * gate.unflatten(-1, (self.num_heads, -1)).transpose(1, 2), x)
