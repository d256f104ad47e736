"""Forgetting attention. Lin et al. 2025, arXiv:2503.02130, section 3.1.

    score[i, j] = q_i . k_j / sqrt(D) + sum_{j < l <= i} log f_l        f_l = sigmoid(x_l w_h + b_h)

A forget gate, as in recurrent networks, for softmax attention: tokens before one that closes its
gate count less. The sum covers the tokens that query i may see, so padding and other documents
close no gate.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Grid, Mask
from attnkit.registry import ATTENTION


@ATTENTION.register("forgetting")
class Forgetting(MultiHead):
    """Each token decides for each head how much of the past is forgotten."""

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True
    formula = "softmax(q_h k_hᵀ / √D + Σ_{j<l≤i} log sigmoid(x_l w_h + b_h)) v_h"
    paper = "Lin et al. 2025, arXiv:2503.02130, section 3.1"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.gate = nn.Linear(dim, self.num_heads)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys carry log f as one more feature: (B, H, S, D + 1); values (B, H, S, D)."""
        k, v = super().project_context(context)
        log_f = F.logsigmoid(self.gate(context)).transpose(1, 2).unsqueeze(-1)
        return torch.cat((k, log_f.to(k.dtype)), dim=-1), v

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Scaled dot products, without the gates: (B, H, T, S)."""
        return super().scores(q, k[..., :-1])

    def weights(self, q: Tensor, k: Tensor, mask: Mask, grid: Grid | None = None) -> Tensor:
        """Softmax of the scores plus the gates between key and query: (B, H, T, S)."""
        grid = Grid.of(q, k, mask) if grid is None else grid
        log_f = k[..., -1].to(torch.promote_types(k.dtype, torch.float32)).unsqueeze(2)
        seen = log_f.expand(-1, -1, grid.num_queries, -1)
        seen = seen if grid.allowed is None else seen * grid.allowed
        seen = seen.flip(-1)  # the nearest key first
        decay = (seen.cumsum(dim=-1) - seen).flip(-1)
        return self.normalize_under(self.biased_scores(q, k, grid) + decay, grid)

    def cache_elements(self, num_tokens: int) -> int:
        """Keys, values and one gate per head."""
        return num_tokens * self.num_heads * (2 * self.head_dim + 1)
