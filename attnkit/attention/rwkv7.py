"""RWKV-7, the time mixing. Peng et al. 2025, arXiv:2503.14456

    S_t = (Diag(w_t) - (a_t * κ_t) κ_tᵀ) S_{t-1} + k~_t v_tᵀ
    κ_t = ξ * k_t, normalised to length 1        k~_t = k_t * (1 + (a_t - 1) * c)
    w_t = exp(-e^(-1/2) sigmoid(tanh(x_t A) B + d))        a_t = sigmoid(x_t A' B' + d')
    head_t = rms_norm(q_t S_t) + (q_t · (u * k~_t)) v_t
    output = (sigmoid(x_t G) G' * head_t) W_o

A delta rule with independent parts: the key κ that is removed differs from the key k~ that is
written, and the removal has a rate a for each feature. The state is the transpose of the paper's.

The paper mixes each token with the previous one before all projections; here queries, keys and
values are mixed after them. Its mixing with the values of the first layer is left out, and its norm
has no mean and no bias here.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.past import Past
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

STRONGEST = math.exp(-0.5)
"""Largest -log of a decay: no feature loses more than 46 % in a step."""

SLOW, FAST = -7.0, -2.0
"""Range of d at first, from the slowest feature of a head to the fastest."""


@ATTENTION.register("rwkv7")
class RWKV7(Recurrent):
    """A corrected state with separate keys for removing and writing, and rates for each feature."""

    smooth = False
    linear_in_values = False  # a value is also added after the norm
    position_kinds = frozenset(("embeddings",))
    formula = "S_t = (Diag(w) - (a * κ) κᵀ) S_{t-1} + k~ vᵀ,  head = norm(q S_t) + (q · u k~) v"
    paper = "Peng et al. 2025, arXiv:2503.14456"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        heads, width = self.num_heads, self.head_dim

        def low_rank(between: nn.Module) -> nn.Sequential:
            down = nn.Linear(dim, width, bias=False)
            return nn.Sequential(down, between, nn.Linear(width, heads * width, bias=False))

        self.fade, self.rate = low_rank(nn.Tanh()), low_rank(nn.Identity())
        self.gate = low_rank(nn.Sigmoid())
        self.fade_start = nn.Parameter(torch.linspace(SLOW, FAST, width).repeat(heads))
        self.rate_start = nn.Parameter(torch.zeros(heads * width))
        self.removed = nn.Parameter(torch.ones(heads, 1, width))  # ξ
        self.replaced = nn.Parameter(torch.ones(heads, 1, width))  # c
        self.bonus = nn.Parameter(torch.zeros(heads, 1, width))  # u
        self.norm = HeadNorm(width)
        self.shifts = nn.ModuleList(TokenShift(heads, width) for _ in range(3))

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys carry the log decays and the rates of removal: (B, H, S, 3 D)."""
        k, v = super().project_context(context)
        fade = -STRONGEST * (self.fade(context) + self.fade_start).float().sigmoid()
        rate = (self.rate(context) + self.rate_start).float().sigmoid()
        gates = [
            gate.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).to(k.dtype)
            for gate in (fade, rate)
        ]
        return torch.cat((k, *gates), dim=-1), v

    def convolve(
        self, q: Tensor, k: Tensor, v: Tensor, past: Past
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mixes each token with the one before it."""
        k, gates = k[..., : self.head_dim], k[..., self.head_dim :]
        q, k, v = (part(heads, past) for part, heads in zip(self.shifts, (q, k, v), strict=True))
        return q, torch.cat((k, gates), dim=-1), v

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Reads the state, normalised, and adds each token's own value (B, H, T, D)."""
        assert not isinstance(state, dict)
        real = real_keys(mask, k)
        k, log_decay, rate = (k if real is None else k * real).chunk(3, dim=-1)
        removed = F.normalize(k * self.removed.to(k.dtype), dim=-1)
        k = k * (1 + (rate - 1) * self.replaced.to(k.dtype))
        sums, state = replaced_sums(q, removed, rate, k, v, log_decay, state)
        own = (self.bonus.to(k.dtype) * k, v)
        missing = q.shape[2] - k.shape[2]  # queries before the first key
        k, v = (F.pad(part, (0, 0, max(missing, 0), 0))[:, :, -q.shape[2] :] for part in own)
        return self.norm(sums) + (q * k).sum(dim=-1, keepdim=True) * v, state

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Applies the gate and projects."""
        gate = self.gate(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return super().merge(heads * gate, x)


class TokenShift(nn.Module):
    """Mixes each token with the one before it, by a learned share for each feature.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((num_heads, 1, head_dim), 0.5))

    def forward(self, heads: Tensor, past: Past) -> Tensor:
        """(B, H, T, D) -> (B, H, T, D)."""
        before = past.before(self, past.real(heads), 1)[:, :, :-1]
        return torch.lerp(heads, before, self.share.to(heads.dtype))


def replaced_sums(
    q: Tensor,
    removed: Tensor,
    rate: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes S_t = (Diag(exp(g_t)) - (a_t * κ_t) κ_tᵀ) S_{t-1} + k_t v_tᵀ, o_t = q_t S_t.

    Args:
        q: (B, H, T, D)
        removed: (B, H, S, D), κ: of length 1.
        rate: (B, H, S, D), a: from 0 to 1.
        k: (B, H, S, D)
        v: (B, H, S, E)
        log_decay: (B, H, S, D), g: at most 0 and not far below -1, since exp(-g) is used.
        state: (B, H, D, E); None: zero.

    Returns:
        (B, H, T, E), and the state after the last key.
    """
    num_queries, length = q.shape[2], longest(q, k)
    # A token removes -κᵀ S_{t-1} = -rᵀ Diag(exp(g)) S_{t-1}. The rows u of this solve a triangular
    # system in each chunk: u = -r (faded S + p u + k v), over the tokens before.
    parts = (q, removed * (-log_decay).exp(), rate * removed, k, v, log_decay)
    q, r, p, k, v, log_decay = in_chunks(CHUNK, num_queries, *parts)
    faded = log_decay.cumsum(dim=3)  # since the chunk began
    end = faded[:, :, :, -1:]
    known = r * faded.exp()
    solved = torch.linalg.solve_triangular(
        faded_products(r, p, faded).tril(-1),
        torch.cat((faded_products(r, k, faded).tril(-1) @ v, known), dim=-1),
        upper=False,
        unitriangular=True,
    )
    # A chunk maps the state S to (fade - offered known) S + added - offered new.
    new, known = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    left = (end - faded).exp()
    offered, added = (p * left).transpose(-2, -1), (k * left).transpose(-2, -1) @ v
    fade = end.exp().transpose(-2, -1)  # (B, H, n, D, 1)
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    before = states_before(fade * identity - offered @ known, added - offered @ new, state)
    taken = new + known @ before
    sums = (q * faded.exp()) @ before
    sums = sums + faded_products(q, k, faded) @ v - faded_products(q, p, faded) @ taken
    last = fade[:, :, -1] * before[:, :, -1] + added[:, :, -1]
    return joined(sums, length, num_queries), last - offered[:, :, -1] @ taken[:, :, -1]
