"""Multi-head latent attention. DeepSeek-AI 2024, arXiv:2405.04434, section 2.1.

    c = rms_norm(W_c context)       (B, S, R), one latent vector per token for all heads
    k_h = [U_h c; W_r context]      v_h = V_h c
    head_h = softmax(q_h k_hᵀ / sqrt(D + D_r)) v_h

Keys and values of all heads are functions of c, so a cache only stores c and the D_r rotated
features. They are never computed: q_h U_h is the query for c itself, and V_h is applied after the
mixing, so all heads share one set of keys, which are also the values, and fused kernels apply. The
paper's low rank of queries, which only saves activations, is left out.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from attnkit.attention.score_attention import ScoreAttention
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION


@ATTENTION.register("multi_head_latent")
class MultiHeadLatent(ScoreAttention):
    """Many heads over one small latent vector per token: the cache of few heads, the maps of many.

    Args:
        num_heads: number H of heads.
        latent_dim: width R of the latent vector; null: twice the width of a head.
        rotary_dim: features D_r of query and key with positions; null: half the width of a head.
        head_dim: width D of a head; null: `dim / num_heads`.
        dropout: share of attention weights that are dropped in training.
    """

    optimizer_roles: ClassVar = {"up_key": "decayed", "up_value": "decayed"}
    position_kinds = frozenset(("embeddings", "queries_and_keys", "scores"))
    merges_linearly = True
    formula = "softmax([q_h U_h; q_r] [c; k_r]ᵀ / √(D + D_r)) c V_h,  c = rms_norm(W_c x)"
    paper = "DeepSeek-AI 2024, arXiv:2405.04434, section 2.1"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        latent_dim: int | None = None,
        rotary_dim: int | None = None,
        head_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            dim, num_heads=num_heads, num_kv_heads=1, head_dim=head_dim, dropout=dropout
        )
        self.latent_dim = 2 * self.head_dim if latent_dim is None else latent_dim
        self.rotary_dim = max(2, self.head_dim // 4 * 2) if rotary_dim is None else rotary_dim
        if self.latent_dim < 1 or self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(
                f"latent_dim {self.latent_dim} must be at least 1, and rotary_dim "
                f"{self.rotary_dim} even and at least 2"
            )
        self.scale = (self.head_dim + self.rotary_dim) ** -0.5
        self.query = nn.Linear(dim, num_heads * (self.head_dim + self.rotary_dim), bias=False)
        self.key = nn.Linear(dim, self.rotary_dim, bias=False)
        self.value = nn.Linear(dim, self.latent_dim, bias=False)
        self.norm = HeadNorm(self.latent_dim)
        up = num_heads * self.head_dim, self.latent_dim
        self.up_key = nn.Parameter(torch.randn(up) * self.latent_dim**-0.5)
        self.up_value = nn.Parameter(torch.randn(up) * self.latent_dim**-0.5)

    def project_query(self, x: Tensor) -> Tensor:
        """Queries for the latent vectors and, in the last features, for positions: (B, H, T, R +
        D_r).
        """
        q = super().project_query(x)
        own, turned = q[..., : self.head_dim], q[..., self.head_dim :]
        up = self.up_key.to(q.dtype).unflatten(0, (self.num_heads, -1))  # (H, D, R)
        return torch.cat((own @ up, turned), dim=-1)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """One key for all heads, (B, 1, S, R + D_r), which is also the value."""
        turned = self.key(context)
        k = torch.cat((self.norm(self.value(context)).to(turned.dtype), turned), dim=-1)
        return k.unsqueeze(1), k.unsqueeze(1)[..., :0]

    def expand(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Uses the keys as values."""
        return k, k

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Applies positions to the last D_r features."""
        latent = self.latent_dim
        turned_q, turned_k = super().place(q[..., latent:], k[..., latent:], seen)
        return (
            torch.cat((q[..., :latent], turned_q), dim=-1),
            torch.cat((k[..., :latent], turned_k), dim=-1),
        )

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Turns mixed latent vectors into values, (B, H, T, R + D_r) -> (B, H, T, D), and projects
        them.
        """
        up = self.up_value.to(heads.dtype).unflatten(0, (self.num_heads, -1))  # (H, D, R)
        return super().merge(heads[..., : self.latent_dim] @ up.mT, x)

    def projection_flops(self) -> int:
        """The linear layers, and the maps between heads and latent vectors in both directions."""
        return super().projection_flops() + 2 * (self.up_key.numel() + self.up_value.numel())

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """Scores and mixing over R + D_r features: 4 (R + D_r) per pair and head."""
        return 4 * pairs * self.num_heads * (self.latent_dim + self.rotary_dim)

    def cache_elements(self, num_tokens: int) -> int:
        """A latent vector and the features with positions, once for all heads."""
        return num_tokens * (self.latent_dim + self.rotary_dim)
