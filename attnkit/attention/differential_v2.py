"""Differential attention, second version. Ye et al. 2026, "Differential Transformer
V2" (no paper; microsoft/diff-attn-v2).

    head_h = (softmax(q1 kᵀ / sqrt(D)) - lambda softmax(q2 kᵀ / sqrt(D))) v
    lambda = sigmoid(x w_h)

Two queries of full width share the keys. Each token sets the factor of the second map, and no
norm follows, unlike the first version (`differential`, arXiv:2410.05258).
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Mask
from attnkit.registry import ATTENTION


@ATTENTION.register("differential_v2")
class DifferentialV2(MultiHead):
    """Each head subtracts a second map, with a factor that depends on the token."""

    map_rows = "signed"
    position_kinds = frozenset(("embeddings", "queries_and_keys", "scores"))
    formula = "(softmax(q₁ k_hᵀ / √D) - sigmoid(x w_h) softmax(q₂ k_hᵀ / √D)) v_h"
    paper = (
        "Ye et al. 2026, huggingface.co, microsoft/diff-attn-v2; first version: arXiv:2410.05258"
    )

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        inner = self.num_heads * self.head_dim
        self.query = nn.Linear(dim, 2 * inner, bias=self.query.bias is not None)
        self.share = nn.Linear(dim, self.num_heads, bias=False)

    def project_query(self, x: Tensor) -> Tensor:
        """Both queries and the factor of the second map: (B, H, T, 2 D + 1)."""
        share = self.share(x).sigmoid().transpose(1, 2).unsqueeze(-1)
        q = super().project_query(x)
        return torch.cat((q, share.to(q.dtype)), dim=-1)

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Applies positions to both queries, and once to the keys."""
        first, second, share = q.split((self.head_dim, self.head_dim, 1), dim=-1)
        first, placed = super().place(first, k, seen)
        second, _ = super().place(second, k, seen)
        return torch.cat((first, second, share), dim=-1), placed

    def weights(self, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
        """The first map minus a multiple of the second: (B, H, T, S)."""
        first, second, share = q.split((self.head_dim, self.head_dim, 1), dim=-1)
        first, second = (super(DifferentialV2, self).weights(q, k, mask) for q in (first, second))
        return first - share * second
