"""Nyström attention. Xiong et al. 2021, arXiv:2102.03902

    head = softmax(Q K~ᵀ) pinv(softmax(Q~ K~ᵀ)) softmax(Q~ Kᵀ) V        scores over sqrt(D)

Queries and keys are averaged over m segments of the sequence, the landmarks Q~ and K~. The product
of three small maps approximates the large one, in linear time. pinv is the paper's iteration for
the pseudo-inverse. Landmarks see the whole sequence, so it is never causal.
"""

import torch
from torch import Tensor

from attnkit.attention.past import real_keys
from attnkit.attention.score_attention import ScoreAttention
from attnkit.masks import Mask
from attnkit.registry import ATTENTION

ITERATIONS = 6
"""Iterations of the pseudo-inverse, as in the paper."""


@ATTENTION.register("nystrom")
class Nystrom(ScoreAttention):
    """A map as the product of three small ones, through averaged queries and keys.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head; null: `dim / num_heads`.
        num_landmarks: number m of segments, at most one per token.
        bias: add a bias vector to the four projections.
    """

    roles = frozenset(("self",))
    mask_names = frozenset(("none", "padding"))
    position_kinds = frozenset(("embeddings", "queries_and_keys"))
    has_cache = False
    knows_order = True
    map_rows = "signed"
    formula = "softmax(q k̃ᵀ) softmax(q̃ k̃ᵀ)⁺ softmax(q̃ kᵀ) v,  q̃, k̃ = means of segments"
    paper = "Xiong et al. 2021, arXiv:2102.03902"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        num_landmarks: int = 8,
        bias: bool = False,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, bias=bias)
        if num_landmarks < 1:
            raise ValueError(f"num_landmarks must be at least 1, got {num_landmarks}")
        self.num_landmarks = num_landmarks

    def mix(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask
    ) -> Tensor:
        """The three maps times the values: (B, H, T, D), in time and memory linear in T."""
        first, inverse, last = self._maps(q, k, mask)
        return (first @ (inverse @ (last @ v.to(last.dtype)))).to(v.dtype)

    def weights(self, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
        """Their product: (B, H, T, S)."""
        first, inverse, last = self._maps(q, k, mask)
        return first @ inverse @ last

    @classmethod
    def memory_order(cls) -> int:
        """No map of all pairs is formed."""
        return 1

    def _maps(self, q: Tensor, k: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, T, m), the pseudo-inverse (B, H, m, m), and (B, H, m, S)."""
        exact = torch.promote_types(q.dtype, torch.float32)
        q, k = q.to(exact) * self.scale, k.to(exact)
        real = real_keys(mask, k)
        asked, offered = self._landmarks(q, real), self._landmarks(k, real)
        last = asked @ k.mT
        if real is not None:
            last = last.masked_fill(real.mT == 0, torch.finfo(exact).min / 2)
        middle = (asked @ offered.mT).softmax(dim=-1)
        last = last.softmax(dim=-1)
        if real is not None:
            last = last * real.mT  # zeros for padding
        return (q @ offered.mT).softmax(dim=-1), pseudo_inverse(middle), last

    def _landmarks(self, heads: Tensor, real: Tensor | None) -> Tensor:
        """Means over segments of the real tokens: (B, H, N, D) -> (B, H, m, D)."""
        num_tokens = heads.shape[2]
        count = min(self.num_landmarks, num_tokens)
        ones = heads.new_ones(1, 1, num_tokens, 1) if real is None else real
        rank = ones.cumsum(dim=2) - ones  # among the real tokens
        total = ones.sum(dim=2, keepdim=True).clamp(min=1)
        segment = (rank * count / total).floor().clamp(max=count - 1)
        inside = (segment == torch.arange(count, device=heads.device)).to(heads.dtype) * ones
        return inside.mT @ heads / inside.sum(dim=2).clamp(min=1).unsqueeze(-1)


def pseudo_inverse(a: Tensor) -> Tensor:
    """The pseudo-inverse of (..., m, m), by the paper's iteration."""
    identity = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    rows, columns = (a.abs().sum(dim=axis).amax(dim=-1) for axis in (-1, -2))
    z = a.mT / (rows * columns)[..., None, None]
    for _ in range(ITERATIONS):
        az = a @ z
        z = 0.25 * z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az)))
    return z
