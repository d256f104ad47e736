"""Linformer. Wang et al. 2020, arXiv:2006.04768, section 4.

    head_h = softmax(q_h (E k_h)ᵀ / sqrt(D)) F v_h        E, F: (R, S), learned, shared by the heads

S keys and values are mixed into R before any query reads them, so time grows with the length. Each
mixture contains later tokens, so no mask can make it causal, and none is accepted.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.base import Attention
from attnkit.attention.cache import Cache
from attnkit.attention.recurrent import real_keys
from attnkit.masks import Mask
from attnkit.registry import ATTENTION


@ATTENTION.register("linformer")
class Linformer(Attention):
    """Attention over a few learned mixtures of the keys instead of the keys.

    Args:
        num_heads: number H of heads.
        rank: number R of mixtures.
        max_keys: largest number of keys; each position has its own share in each mixture.
        head_dim: width D of a head; null: `dim / num_heads`.
        dropout: share of the weights on mixtures that are dropped in training.
        bias: add a bias vector to the four projections.
    """

    mask_names = frozenset(("none", "padding"))
    position_kinds = frozenset(("embeddings", "queries_and_keys"))
    map_rows = "signed"
    knows_order = True
    optimizer_roles: ClassVar = {"mix_keys": "matrix", "mix_values": "matrix"}
    formula = "softmax(q_h (E k_h)ᵀ / √D) F v_h,  E, F: (R, S)"
    paper = "Wang et al. 2020, arXiv:2006.04768, section 4"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        rank: int = 32,
        max_keys: int = 512,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, dropout=dropout, bias=bias)
        if rank < 1 or max_keys < 1:
            raise ValueError(f"rank {rank} and max_keys {max_keys} must be at least 1")
        self.rank = rank
        self.mix_keys = nn.Parameter(torch.randn(rank, max_keys) * max_keys**-0.5)
        self.mix_values = nn.Parameter(torch.randn(rank, max_keys) * max_keys**-0.5)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Softmax over the mixtures of keys, times those of values: (B, H, T, D)."""
        num_keys = k.shape[2]
        if num_keys > self.mix_keys.shape[1]:
            raise ValueError(
                f"linformer has shares for {self.mix_keys.shape[1]} keys but got {num_keys}; set "
                "its option max_keys"
            )
        real = real_keys(mask, k)
        if real is not None:
            k, v = k * real, v * real
        k = self.mix_keys[:, :num_keys].to(k.dtype) @ k  # (B, H, R, D)
        v = self.mix_values[:, :num_keys].to(v.dtype) @ v
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        if self.training and self.dropout > 0:
            weights = F.dropout(weights, self.dropout)
        return weights.to(v.dtype) @ v

    def decode(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, cache: Cache) -> Tensor:
        """Not supported: each new token would change earlier outputs.

        Raises:
            ValueError: always.
        """
        raise ValueError("linformer is never causal, so it cannot decode from a cache")

    def new_cache(self) -> Cache:
        """Not supported, see `decode`.

        Raises:
            ValueError: always.
        """
        raise ValueError("linformer is never causal, so it has no cache")

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """Mixtures of keys and values, and attention over them: 8 R D per token and head."""
        return 8 * num_tokens * self.num_heads * self.rank * self.head_dim

    def cache_elements(self, num_tokens: int) -> int:
        return 0
