"""DeltaNet. Yang et al. 2024, arXiv:2406.06484, sections 2 and 3.

    S_t = S_{t-1} + k_t (b_t (v_t - k_tᵀ S_{t-1}))ᵀ,    head_t = q_t S_t,    b_t = sigmoid(x_t w_h)
    output = rms_norm(head) W_o                          q, k: silu, then normalised to length 1

Linear attention that corrects itself: what the state already returns for a key is subtracted before
the new value is written. Within a chunk the corrections u solve a triangular system,
(I + tril(b k kᵀ, -1)) u = b (v - k S), which is the paper's parallel form. The paper's short
convolutions are left out.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.kernels import Operation, computed_outside, operation
from attnkit.attention.recurrent import (
    Recurrent,
    faded_products,
    in_chunks,
    joined,
    longest,
    real_keys,
    states_before,
)
from attnkit.masks import Mask
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens per chunk."""

SMALLEST = math.log(torch.finfo(torch.float32).tiny)
"""Of the logarithm of a decay: beyond it the state is 0."""


@ATTENTION.register("delta_net")
class DeltaNet(Recurrent):
    """A state that is corrected towards each new value instead of accumulating them."""

    smooth = False
    formula = "S_t = S_{t-1} + β_t k_t (v_t - k_tᵀ S_{t-1})ᵀ,  head = q_t S_t, normalised"
    paper = "Yang et al. 2024, arXiv:2406.06484, section 3"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        self.write = nn.Linear(dim, self.num_heads, bias=False)
        self.norm = HeadNorm(self.head_dim)

    def project_query(self, x: Tensor) -> Tensor:
        """Queries of length 1: (B, H, T, D)."""
        return F.normalize(F.silu(super().project_query(x)), dim=-1)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of length 1, which carry the strength b of their correction: (B, H, S, D + 1)."""
        k, v = super().project_context(context)
        k = F.normalize(F.silu(k), dim=-1)
        strength = self.write(context).sigmoid().transpose(1, 2).unsqueeze(-1)
        return torch.cat((k, strength.to(k.dtype)), dim=-1), v

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """What queries read from the corrected state (B, H, T, D), and the state (B, H, D, D)."""
        assert not isinstance(state, dict)
        k, strength = k[..., :-1], k[..., -1:]
        real = real_keys(mask, k)
        strength = strength if real is None else strength * real
        if state is None and q.shape[2] == k.shape[2]:
            computed = computed_outside("corrected_sums", q, k, v, strength)
            if computed is not None:
                return computed
        return corrected_sums(q, k, v, strength, state)

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Normalises each head and projects them."""
        return super().merge(self.norm(heads), x)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """State read twice and updated, 2 D^2 each, per token and head: the recurrent form."""
        return 6 * num_tokens * self.num_heads * self.head_dim**2


def corrected_sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    strength: Tensor,
    state: Tensor | None = None,
    log_decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes S_t = exp(g_t) S_{t-1} + b_t k_t (v_t - k_tᵀ exp(g_t) S_{t-1})ᵀ, o_t = q_t S_t.

    Args:
        q: (B, H, T, D)
        k: (B, H, S, D), of length 1.
        v: (B, H, S, E)
        strength: (B, H, S, 1), b: from 0 to 1; up to 2 reflects.
        state: (B, H, D, E); None: zero.
        log_decay: (B, H, S, 1 or D), g: at most 0; the state decays before it is corrected. None:
            no decay.

    Returns:
        (B, H, T, E), and the state after the last key.
    """
    num_queries, length = q.shape[2], longest(q, k)
    if log_decay is None:
        q, k, v, strength = in_chunks(CHUNK, num_queries, q, k, v, strength)
        asked, known, offered, fade = q, k, k, None
        seen, met = (q @ k.transpose(-2, -1)).tril(), k @ k.transpose(-2, -1)
    else:
        log_decay = log_decay.clamp(min=SMALLEST)
        q, k, v, strength, log_decay = in_chunks(CHUNK, num_queries, q, k, v, strength, log_decay)
        faded = log_decay.cumsum(dim=3)  # since the chunk began
        asked, known = q * faded.exp(), k * faded.exp()
        offered = k * (faded[:, :, :, -1:] - faded).exp()
        fade = faded[:, :, :, -1].exp().unsqueeze(-1)  # (B, H, n, 1 or D, 1)
        seen, met = faded_products(torch.stack((q, k)), k, faded)
    solved = torch.linalg.solve_triangular(
        (strength * met).tril(-1),
        strength * torch.cat((v, known), dim=-1),
        upper=False,
        unitriangular=True,
    )
    # A chunk adds offeredᵀ (new - known S): it maps the state S to A S + B.
    new, known = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    offered = offered.transpose(-2, -1)
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    kept = identity if fade is None else fade * identity
    before = states_before(kept - offered @ known, offered @ new, state)
    written = new - known @ before
    sums = asked @ before + seen @ written
    last = before[:, :, -1] if fade is None else fade[:, :, -1] * before[:, :, -1]
    last = last + offered[:, :, -1] @ written[:, :, -1]
    return joined(sums, length, num_queries), last


def _sample(
    widths: tuple[int, ...], sizes: tuple[int, int, int], generator: torch.Generator
) -> list[Tensor]:
    q, k, v, strength = (torch.randn(*sizes, width, generator=generator) for width in widths)
    return [F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, strength.sigmoid()]


operation(Operation("corrected_sums", corrected_sums, _sample))
