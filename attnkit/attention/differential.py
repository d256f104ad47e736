"""Differential attention. Ye et al. 2024, arXiv:2410.05258, section 2.1.

    head_h = (softmax(q1 k1ᵀ / sqrt(D / 2)) - lambda softmax(q2 k2ᵀ / sqrt(D / 2))) v
    lambda = exp(a1 . b1) - exp(a2 . b2) + lambda_init
    output = concat((1 - lambda_init) rms_norm(head_h)) W_o

What both maps attend to, mostly noise, cancels out. The paper's lambda_init rises with the depth of
the layer, from 0.2 to 0.8; here it is one number, the paper's own simplification (section 3.8).
Queries and keys are split by even and odd features, so that a rotary encoding, which pairs feature
i and i + D / 2, stays within one half.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Mask
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION


@ATTENTION.register("differential")
class Differential(MultiHead):
    """Each head computes two maps and uses their difference.

    Args:
        lambda_init: initial factor of the second map.
        learned: learn the factor; false: it is constant, and with `lambda_init=0` the second map is
            left out.
    """

    map_rows = "signed"
    position_kinds = frozenset(("embeddings", "queries_and_keys", "scores"))
    formula = "(softmax(q₁ k₁ᵀ / √(D/2)) - λ softmax(q₂ k₂ᵀ / √(D/2))) v, normalised"
    paper = "Ye et al. 2024, arXiv:2410.05258, section 2.1"

    def __init__(
        self, dim: int, *, lambda_init: float = 0.8, learned: bool = True, **options
    ) -> None:
        super().__init__(dim, **options)
        if self.head_dim % 4:
            raise ValueError(
                f"differential attention halves each head, so head_dim {self.head_dim} must be a "
                "multiple of 4"
            )
        if not 0 <= lambda_init < 1:
            raise ValueError(f"lambda_init must be in [0, 1), got {lambda_init}")
        half = self.head_dim // 2
        self.lambda_init = lambda_init
        self.scale = half**-0.5
        mixers = 0.1 * torch.randn(4 * half)  # a1, b1, a2, b2
        self.mixers = nn.Parameter(mixers) if learned else None
        self.norm = HeadNorm(self.head_dim)

    def taken_away(self) -> Tensor | float:
        """lambda, a scalar."""
        if self.mixers is None:
            return self.lambda_init
        first, second = self.mixers.view(2, 2, -1).prod(dim=1).sum(dim=-1).exp()
        return first - second + self.lambda_init

    def weights(self, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
        """The first map minus a multiple of the second: (B, H, T, S)."""
        first, second = (
            super(Differential, self).weights(q[..., i::2], k[..., i::2], mask) for i in (0, 1)
        )
        return first - self.taken_away() * second

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Normalises each head, since differences vary in size, and projects them."""
        return super().merge((1 - self.lambda_init) * self.norm(heads), x)
