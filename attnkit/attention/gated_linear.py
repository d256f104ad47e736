"""Gated linear attention. Yang et al. 2023, arXiv:2312.06635, section 4.

    S_t = diag(a_t) S_{t-1} + k_t v_tᵀ,    head_t = q_t S_t / sqrt(D)
    a_t = sigmoid(x_t A B + b)^(1/16)
    output = (swish(x W_g) * rms_norm(head)) W_o

Retention with a decay for each feature that depends on the token, through a low-rank projection (A
has 16 columns).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.recurrent import decayed_sums, real_keys
from attnkit.attention.retention import Retention
from attnkit.masks import Mask
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens per chunk."""

RANK, TEMPERATURE = 16, 16
"""Rank of the decay's projection, and the root that keeps the decay near 1 (the paper's tau)."""


@ATTENTION.register("gated_linear")
class GatedLinear(Retention):
    """A state whose features decay at rates that depend on each token, with an output gate."""

    formula = "S_t = diag(a_t) S_{t-1} + k_t v_tᵀ,  head = q_t S_t / √D, normalised and gated"
    paper = "Yang et al. 2023, arXiv:2312.06635, section 4"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.decay_down = nn.Linear(dim, RANK, bias=False)
        self.decay_up = nn.Linear(RANK, self.num_heads * self.head_dim)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys carry the logarithm of their decay: (B, H, S, 2 D); values (B, H, S, D)."""
        k, v = super().project_context(context)
        log_decay = F.logsigmoid(self.decay_up(self.decay_down(context))) / TEMPERATURE
        log_decay = log_decay.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return torch.cat((k, log_decay.to(k.dtype)), dim=-1), v

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Sums with token-dependent decay (B, H, T, D), and the state (B, H, D, D)."""
        assert not isinstance(state, dict)
        real = real_keys(mask, k)
        k, log_decay = (k if real is None else k * real).chunk(2, dim=-1)
        return decayed_sums(q * self.scale, k, v, log_decay, state, CHUNK)
