"""PaTH attention. Yang et al. 2025, arXiv:2505.16381

    score[i, j] = q_iᵀ (H_i H_{i-1} ... H_{j+1}) k_j / sqrt(D)        H_t = I - b_t w_t w_tᵀ
    w_t = x_t W_w, of length 1        b_t = 2 sigmoid(x_t u)

Positions as a product of reflections that depend on the tokens between query and key, instead of a
rotation by the distance. The products for all pairs come from one triangular system over the
sequence (the paper's UT transform):

    A = Q Kᵀ - tril(Q Wᵀ) (I + tril(b W Wᵀ, -1))⁻¹ b tril(W Kᵀ, -1)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.attention.past import real_keys
from attnkit.hardware.devices import autocast
from attnkit.masks import Grid
from attnkit.registry import ATTENTION


@ATTENTION.register("path")
class PaTH(MultiHead):
    """Scores depend on the tokens between query and key, through data-dependent reflections."""

    roles = frozenset(("self",))
    mask_names = frozenset(("causal", "padding"))
    causal_only = True
    knows_order = True
    position_kinds = frozenset(("embeddings", "scores"))
    formula = "softmax(q_i (Π_{j<t≤i} (I - β_t w_t w_tᵀ)) k_jᵀ / √D) v"
    paper = "Yang et al. 2025, arXiv:2505.16381"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.direction = nn.Linear(dim, self.num_heads * self.head_dim, bias=False)
        self.strength = nn.Linear(dim, self.num_heads)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys carry w and b of their reflection: (B, H, S, 2 D + 1)."""
        k, v = super().project_context(context)
        w = self.direction(context).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        b = 2 * self.strength(context).sigmoid().transpose(1, 2).unsqueeze(-1)
        return torch.cat((k, F.normalize(w, dim=-1).to(k.dtype), b.to(k.dtype)), dim=-1), v

    def scores(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, grid: Grid
    ) -> Tensor:
        """q (product of reflections) kᵀ / sqrt(D): (B, H, T, S)."""
        exact = torch.promote_types(q.dtype, torch.float32)
        k, w, b = k.to(exact).split((self.head_dim, self.head_dim, 1), dim=-1)
        real = real_keys(grid.mask, k)
        b = b if real is None else b * real  # no reflection for padding
        q = q.to(exact) * self.scale
        with autocast(q.device.type, enabled=False):
            system = (b * (w @ w.mT)).tril(-1)
            turned = torch.linalg.solve_triangular(
                system, b * (w @ k.mT).tril(-1), upper=False, unitriangular=True
            )
            seen = (q @ w.mT).masked_fill(grid.key > grid.query, 0.0)
            return q @ k.mT - seen @ turned
