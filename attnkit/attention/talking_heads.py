"""Talking-heads attention. Shazeer et al. 2020, arXiv:2003.02436, section 3.

weights = W_after softmax(W_before scores)        both matrices mix heads: (H, H)
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Mask
from attnkit.registry import ATTENTION


@ATTENTION.register("talking_heads")
class TalkingHeads(MultiHead):
    """Mixes heads linearly before and after the softmax; both mixtures start as the identity."""

    map_rows = "signed"
    formula = "W_after softmax(W_before (q kᵀ / √D)) v"
    paper = "Shazeer et al. 2020, arXiv:2003.02436, section 3"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.before = nn.Parameter(torch.eye(self.num_heads))
        self.after = nn.Parameter(torch.eye(self.num_heads))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Scores, mixed across heads: (B, H, T, S)."""
        return torch.einsum("gh,bhts->bgts", self.before, super().scores(q, k))

    def weights(self, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
        """Weights, mixed across heads: (B, H, T, S)."""
        return torch.einsum("gh,bhts->bgts", self.after, super().weights(q, k, mask))

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """Those of multi-head attention, and two mixtures of the heads: 4 H^2 per pair."""
        return super().mixing_flops(num_tokens, pairs) + 4 * pairs * self.num_heads**2
