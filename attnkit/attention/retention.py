"""Retention. Sun et al. 2023, arXiv:2307.08621, section 2.

    S_t = gamma_h S_{t-1} + k_t v_tᵀ,    head_t = q_t S_t / sqrt(D),    gamma_h = 1 - 2^(-5 - h)
    output = (swish(x W_g) * rms_norm(head)) W_o

Linear attention with a fixed decay per head. The paper applies rotary positions to queries and
keys: `position: rotary`. Its group norm is a norm of each head here.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.recurrent import Recurrent, decayed_sums, real_keys
from attnkit.masks import Mask
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens per chunk."""


@ATTENTION.register("retention")
class Retention(Recurrent):
    """A state that decays at a fixed rate per head, with an output gate."""

    smooth = False
    formula = "(q_h k_hᵀ / √D ⊙ g_h^(i-j)) v_h, normalised and gated,  g_h = 1 - 2^(-5-h)"
    paper = "Sun et al. 2023, arXiv:2307.08621, section 2"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.gate = nn.Linear(dim, self.num_heads * self.head_dim, bias=False)
        self.norm = HeadNorm(self.head_dim)

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Sums that decay with the distance (B, H, T, D), and the state (B, H, D, D)."""
        assert not isinstance(state, dict)
        head = torch.arange(self.num_heads, device=q.device, dtype=q.dtype).view(-1, 1, 1)
        log_decay = torch.log1p(-torch.exp2(-5 - head)).expand(1, -1, k.shape[2], 1)
        real = real_keys(mask, k)
        if real is not None:
            k, log_decay = k * real, log_decay * real
        return decayed_sums(q * self.scale, k, v, log_decay, state, CHUNK)

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Normalises each head, applies the gate and projects."""
        gate = F.silu(self.gate(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return super().merge(self.norm(heads) * gate, x)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """State update and read, 2 D^2 each, and D^2 for the decay, per token and head."""
        return 5 * num_tokens * self.num_heads * self.head_dim**2
