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
    """Heads exchange scores before the softmax and weights after it; both mixtures start as the
    identity.
    """

    map_rows = "signed"
    formula = "W_after softmax(W_before (q kᵀ / √D)) v"
    paper = "Shazeer et al. 2020, arXiv:2003.02436, section 3"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.before = nn.Parameter(torch.eye(self.num_heads))
        self.after = nn.Parameter(torch.eye(self.num_heads))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Scores of all heads, mixed into those of each: (B, H, T, S)."""
        return torch.einsum("gh,bhts->bgts", self.before, super().scores(q, k))

    def weights(self, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
        """Weights of all heads, mixed into those of each: (B, H, T, S)."""
        return torch.einsum("gh,bhts->bgts", self.after, super().weights(q, k, mask))

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """Multi-head attention's, and two mixtures of the heads: 4 H^2 a pair."""
        return super().mixing_flops(num_tokens, pairs) + 4 * pairs * self.num_heads**2
