"""Kimi Delta Attention (KDA). Kimi Team 2025, arXiv:2510.26692

    S_t = (I - b_t k_t k_tᵀ) Diag(a_t) S_{t-1} + b_t k_t v_tᵀ        head_t = q_t S_t

Gated DeltaNet with a decay rate for each feature, from a low-rank projection. With equal rates it
is Gated DeltaNet.
"""

from torch import nn

from attnkit.attention.gated_delta_net import GatedDeltaNet
from attnkit.registry import ATTENTION


@ATTENTION.register("kda")
class KDA(GatedDeltaNet):
    """A corrected state whose features have token-dependent decay rates."""

    formula = "S_t = (I - b_t k_t k_tᵀ) Diag(a_t) S_{t-1} + b_t k_t v_tᵀ,  head = q_t S_t, gated"
    paper = "Kimi Team 2025, arXiv:2510.26692"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        rank = self.head_dim
        self.fade = nn.Sequential(
            nn.Linear(dim, rank, bias=False), nn.Linear(rank, self.step.numel(), bias=False)
        )

    @property
    def num_rates(self) -> int:
        """One rate per feature."""
        return self.head_dim
