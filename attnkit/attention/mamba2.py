"""Mamba-2 (SSD). Dao and Gu 2024, arXiv:2405.21060, section 7.

    S_t = exp(-A_h d_t) S_{t-1} + d_t B_t x_tᵀ        y_t = C_t S_t + g_h x_t
    d_t = softplus(u_t w_h + bias_h)
    output = rms_norm(y * silu(u W_z)) W_o

A state space model as attention: C is the query, B the key, x the value. One number per head and
token, the step d, sets the decay of the state and the amount that is written. All heads share B and
C. A short convolution comes before all three.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.past import Past, ShortConvolution
from attnkit.attention.recurrent import Recurrent, decayed_sums, draw_steps, real_keys
from attnkit.masks import Mask
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens per chunk."""


@ATTENTION.register("mamba2")
class Mamba2(Recurrent):
    """A state space with token-dependent steps, and keys and queries shared by all heads.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head; null: `dim / num_heads`.
        state_dim: width N of B and C.
        convolution: width of the short convolution; 0: no convolution.
        dropout: share of values that are hidden from the state in training, for each head.
    """

    smooth = False
    position_kinds = frozenset(("embeddings",))
    formula = "S_t = exp(-A d_t) S_{t-1} + d_t B_t x_tᵀ,  y_t = C_t S_t + g x_t, gated, normalised"
    paper = "Dao and Gu 2024, arXiv:2405.21060, section 7"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        state_dim: int = 16,
        convolution: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, dropout=dropout)
        if state_dim < 1 or convolution < 0:
            raise ValueError(
                f"state_dim {state_dim} must be at least 1, and convolution {convolution} at "
                "least 0"
            )
        self.state_dim = state_dim
        self.query = nn.Linear(dim, state_dim, bias=False)  # C
        self.key = nn.Linear(dim, state_dim, bias=False)  # B
        self.step = nn.Linear(dim, num_heads, bias=False)
        self.step_bias = nn.Parameter(draw_steps(num_heads))
        self.rate = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(num_heads))
        self.gate = nn.Linear(dim, num_heads * self.head_dim, bias=False)
        self.norm = HeadNorm(num_heads * self.head_dim)
        sizes = ((1, state_dim), (1, state_dim), (num_heads, self.head_dim))
        self.convolutions = nn.ModuleList(
            ShortConvolution(*size, width=convolution) for size in (sizes if convolution else ())
        )

    def project_query(self, x: Tensor) -> Tensor:
        """C, one for all heads: (B, 1, T, N)."""
        return self.query(x).unsqueeze(1)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """B with the steps of all heads (B, 1, S, N + H), and x (B, H, S, D)."""
        v = self.value(context).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        step = F.softplus((self.step(context) + self.step_bias).float())
        k = self.key(context)
        return torch.cat((k, step.to(k.dtype)), dim=-1).unsqueeze(1), v

    def convolve(
        self, q: Tensor, k: Tensor, v: Tensor, past: Past
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Short convolutions of C, B and x."""
        if not self.convolutions:
            return q, k, v
        k, step = k[..., : self.state_dim], k[..., self.state_dim :]
        q, k, v = (
            part(heads, past) for part, heads in zip(self.convolutions, (q, k, v), strict=True)
        )
        return q, torch.cat((k, step), dim=-1), v

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Reads the state and adds each token's own value: (B, H, T, D); returns the state too."""
        assert not isinstance(state, dict)
        real = real_keys(mask, k)
        k = k if real is None else k * real
        step = k[..., self.state_dim :].transpose(1, 3)  # (B, H, S, 1)
        k = k[..., : self.state_dim] * step
        log_decay = -self.rate.exp().to(k.dtype).view(-1, 1, 1) * step
        asked = q.expand(-1, self.num_heads, -1, -1)
        sums, state = decayed_sums(asked, k, v, log_decay, state, CHUNK)
        own = v if real is None else v * real
        own = F.pad(own, (0, 0, max(q.shape[2] - v.shape[2], 0), 0))[:, :, -q.shape[2] :]
        return sums + self.skip.to(v.dtype).view(-1, 1, 1) * own, state

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Gates all features, normalises them together and projects them."""
        gate = F.silu(self.gate(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        together = self.norm((heads * gate).transpose(1, 2).flatten(-2))
        return self.output(together)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """State decayed, written and read: 5 N D per token and head, the recurrent form."""
        return 5 * num_tokens * self.num_heads * self.state_dim * self.head_dim
