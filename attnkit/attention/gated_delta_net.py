"""Gated DeltaNet. Yang et al. 2024, arXiv:2412.06464, section 3.

    S_t = a_t S_{t-1} + b_t k_t (v_t - a_t k_tᵀ S_{t-1})ᵀ        head_t = q_t S_t
    a_t = exp(-exp(A_h) softplus(x_t w_h + d_h))        b_t = sigmoid(x_t u_h)
    output = (silu(x W_g) * rms_norm(head)) W_o

DeltaNet with a decay of the whole state that depends on the token. Queries, keys and values first
pass a short convolution, as in the paper.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.delta_net import DeltaNet, corrected_sums
from attnkit.attention.past import Past, ShortConvolution
from attnkit.attention.recurrent import draw_steps, real_keys
from attnkit.masks import Mask
from attnkit.registry import ATTENTION

FASTEST, SLOWEST = 16.0, 1.0
"""Initial range of exp(A)."""


@ATTENTION.register("gated_delta_net")
class GatedDeltaNet(DeltaNet):
    """A corrected state with token-dependent decay and an output gate.

    Args:
        convolution: width of the short convolution; 0: no convolution.
    """

    formula = "S_t = a_t S_{t-1} + b_t k_t (v_t - a_t k_tᵀ S_{t-1})ᵀ,  head = q_t S_t, gated"
    paper = "Yang et al. 2024, arXiv:2412.06464, section 3"

    def __init__(self, dim: int, *, convolution: int = 4, **options) -> None:
        super().__init__(dim, **options)
        if convolution < 0:
            raise ValueError(f"convolution must be at least 0, got {convolution}")
        heads, width = self.num_heads, self.head_dim
        gates = heads * self.num_rates
        self.rate = nn.Parameter(torch.empty(heads).uniform_(SLOWEST, FASTEST).log())
        self.step = nn.Parameter(draw_steps(gates))
        self.fade = nn.Linear(dim, gates, bias=False)
        self.gate = nn.Linear(dim, heads * width, bias=False)
        self.convolutions = nn.ModuleList(
            ShortConvolution(heads, width, width=convolution)
            for _ in range(3 if convolution else 0)
        )

    @property
    def num_rates(self) -> int:
        """Number of decay rates of a head."""
        return 1

    def project_query(self, x: Tensor) -> Tensor:
        """(B, H, T, D)."""
        return super(DeltaNet, self).project_query(x)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys carry b and the log decays: (B, H, S, D + 1 + 1 or D)."""
        k, v = super(DeltaNet, self).project_context(context)
        strength = self.write(context).sigmoid().transpose(1, 2).unsqueeze(-1)
        fade = F.softplus((self.fade(context) + self.step).float())
        fade = fade.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        log_decay = -self.rate.float().exp().view(-1, 1, 1) * fade
        return torch.cat((k, strength.to(k.dtype), log_decay.to(k.dtype)), dim=-1), v

    def convolve(
        self, q: Tensor, k: Tensor, v: Tensor, past: Past
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Applies short convolutions, then normalises queries and keys to length 1."""
        k, gates = k[..., : self.head_dim], k[..., self.head_dim :]
        if self.convolutions:
            q, k, v = (
                part(heads, past) for part, heads in zip(self.convolutions, (q, k, v), strict=True)
            )
        else:
            q, k = F.silu(q), F.silu(k)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return q, torch.cat((k, gates), dim=-1), v

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Reads the decaying, corrected state (B, H, T, D); returns it too."""
        assert not isinstance(state, dict)
        k, strength, log_decay = k.split((self.head_dim, 1, self.num_rates), dim=-1)
        real = real_keys(mask, k)
        if real is not None:
            strength, log_decay = strength * real, log_decay * real
        return corrected_sums(q, k, v, strength, state, log_decay)

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Normalises each head, applies the gate and projects."""
        gate = F.silu(self.gate(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return super(DeltaNet, self).merge(self.norm(heads) * gate, x)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """State decayed, read twice and updated: 7 D^2 per token and head, the recurrent form."""
        return 7 * num_tokens * self.num_heads * self.head_dim**2
