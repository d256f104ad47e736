"""HGRN2. Qin et al. 2024, arXiv:2404.07904

    S_t = Diag(f_t) S_{t-1} + (1 - f_t) v_tᵀ        head_t = q_t S_t
    f_t = l + (1 - l) sigmoid(x_t W_f)
    output = rms_norm(head) W_o

A gated recurrent network whose state is a matrix: the key is one minus the forget gate, not learned
separately. The lower bound l rises with the layer: upper layers remember longer.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.recurrent import Recurrent, decayed_sums, real_keys
from attnkit.masks import Mask
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens per chunk."""


@ATTENTION.register("hgrn2")
class HGRN2(Recurrent):
    """A state with a token-dependent forget gate f per feature, and the input gate 1 - f."""

    smooth = False
    position_kinds = frozenset(("embeddings",))
    formula = "S_t = Diag(f_t) S_{t-1} + (1 - f_t) v_tᵀ,  head = q_t S_t, normalised"
    paper = "Qin et al. 2024, arXiv:2404.07904"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.norm = HeadNorm(self.head_dim)

    @property
    def lower_bound(self) -> float:
        """l of this layer: 0 in the first, rising linearly to (L - 1) / L in the last of L."""
        return self.layer / self.num_layers

    def project_query(self, x: Tensor) -> Tensor:
        """(B, H, T, D)."""
        return F.silu(super().project_query(x))

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithms of the forget gates and the values: (B, H, S, D) each."""
        gates, v = super().project_context(context)
        forget = self.lower_bound + (1 - self.lower_bound) * gates.float().sigmoid()
        return forget.clamp(min=torch.finfo(torch.float32).tiny).log().to(gates.dtype), v

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Reads the decaying state (B, H, T, D); returns it too (B, H, D, D)."""
        assert not isinstance(state, dict)
        real = real_keys(mask, k)
        log_forget = k if real is None else k * real
        free = -torch.expm1(log_forget)  # 0 for padding
        return decayed_sums(q, free, v, log_forget, state, CHUNK)

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Normalises each head and projects them."""
        return super().merge(self.norm(heads), x)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """State decayed, written and read: 5 D^2 per token and head, the recurrent form."""
        return 5 * num_tokens * self.num_heads * self.head_dim**2
