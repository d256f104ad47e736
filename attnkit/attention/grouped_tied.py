"""Grouped-tied attention (GTA). Zadouri et al. 2025, arXiv:2505.21487

    k_g = [first half of t_g; r]        v_g = t_g        t = x W_t, r = x W_r
    head_h = softmax(q_h k_gᵀ / sqrt(D)) v_g             with g the group of head h

Keys and values of a group are one tensor t: half of it is the key, all of it the value. The other
half of the key, r, has the positions and is shared by all groups.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.grouped_query import GroupedQuery
from attnkit.registry import ATTENTION


@ATTENTION.register("grouped_tied")
class GroupedTied(GroupedQuery):
    """Groups of heads whose key is half of their value: about half the cache of `grouped_query`.

    `head_dim` must be a multiple of 4.
    """

    position_kinds = frozenset(("embeddings", "queries_and_keys", "scores"))
    formula = "softmax(q_h [t_g[:D/2]; r]ᵀ / √D) t_g,  g = group of h"
    paper = "Zadouri et al. 2025, arXiv:2505.21487"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        if self.head_dim % 4:
            raise ValueError(
                f"grouped_tied applies positions to half of each key, so head_dim {self.head_dim} "
                "must be a multiple of 4"
            )
        self.half_dim = self.head_dim // 2
        self.key = nn.Linear(dim, self.half_dim, bias=self.key.bias is not None)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The shared half of the keys (B, 1, S, D / 2), and the values (B, H_kv, S, D)."""
        v = self.value(context).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        return self.key(context).unsqueeze(1), v

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Applies positions to the second half of the queries, and the shared half of the keys."""
        turned, k = super().place(q[..., self.half_dim :], k, seen)
        return torch.cat((q[..., : self.half_dim], turned), dim=-1), k

    def expand(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys are half of the values and the shared half: (B, H_kv, S, D) each."""
        shared = k.expand(-1, self.num_kv_heads, -1, -1)
        return torch.cat((v[..., : self.half_dim], shared), dim=-1), v

    def cache_elements(self, num_tokens: int) -> int:
        """Values of the groups, and half a key."""
        return num_tokens * (self.num_kv_heads * self.head_dim + self.half_dim)
