"""Tensor product attention (TPA). Zhang et al. 2025, arXiv:2501.06425, section 3.

    q = 1/R_q sum_r a_r(x) ⊗ b_r(x)      (H, D) for each token; k and v alike with R_kv
    head_h = softmax(q_h k_hᵀ / sqrt(D)) v_h

Queries, keys and values of all heads are sums of a few outer products. A cache stores the factors:
R_kv (H + D) numbers for keys and as many for values, instead of H D each.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("tensor_product")
class TensorProduct(MultiHead):
    """Low-rank queries, keys and values over heads and features, with a cache of the factors.

    Args:
        query_rank: number of outer products for the queries of a token.
        kv_rank: number of outer products for its keys, and for its values.
    """

    formula = "softmax(q_h k_hᵀ / √D) v_h,  q, k, v = 1/R Σ_r a_r(x) ⊗ b_r(x)"
    paper = "Zhang et al. 2025, arXiv:2501.06425, section 3"

    def __init__(self, dim: int, *, query_rank: int = 6, kv_rank: int = 2, **options) -> None:
        super().__init__(dim, **options)
        if query_rank < 1 or kv_rank < 1:
            raise ValueError(f"query_rank {query_rank} and kv_rank {kv_rank} must be at least 1")
        one = self.num_heads + self.head_dim
        bias = self.query.bias is not None
        self.query_rank, self.kv_rank = query_rank, kv_rank
        self.query = nn.Linear(dim, query_rank * one, bias=bias)
        self.key = nn.Linear(dim, kv_rank * one, bias=bias)
        self.value = nn.Linear(dim, kv_rank * one, bias=bias)

    def project_query(self, x: Tensor) -> Tensor:
        """Queries of all heads: (B, H, T, D)."""
        return self._product(self.query(x).unflatten(-1, (self.query_rank, -1)).transpose(1, 2))

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of keys and of values: (B, R_kv, S, D + H) each."""
        k, v = self.key(context), self.value(context)
        k, v = (factors.unflatten(-1, (self.kv_rank, -1)).transpose(1, 2) for factors in (k, v))
        return k, v

    def expand(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all heads, from their factors: (B, H, S, D) each."""
        return self._product(k), self._product(v)

    def _product(self, factors: Tensor) -> Tensor:
        """1/R sum_r a_r ⊗ b_r: (B, R, S, D + H), b first -> (B, H, S, D)."""
        b, a = factors.split((self.head_dim, self.num_heads), dim=-1)
        return torch.einsum("brsh,brsd->bhsd", a, b) / factors.shape[1]

    def projection_flops(self) -> int:
        """The linear layers, and the outer products: 2 D per term and head."""
        terms = self.query_rank + 2 * self.kv_rank
        return super().projection_flops() + 2 * self.num_heads * self.head_dim * terms

    def cache_elements(self, num_tokens: int) -> int:
        """Factors of keys and values."""
        return 2 * num_tokens * self.kv_rank * (self.num_heads + self.head_dim)
