"""Performer (FAVOR+). Choromanski et al. 2020, arXiv:2009.14794

    f(x) = exp(W x - |x|² / 2) / sqrt(m)        x = q or k over D^(1/4)
    E[f(q) . f(k)] = exp(q . k / sqrt(D))

Linear attention whose features estimate the softmax. W has random orthogonal rows with the lengths
of normal vectors, drawn once. The paper subtracts the largest exponent, which needs all keys and
cancels out; here exponents are bounded by |w|² / 2 and need no shift.
"""

import math

import torch
from torch import Tensor

from attnkit.attention.linear import Linear
from attnkit.registry import ATTENTION


@ATTENTION.register("performer")
class Performer(Linear):
    """Softmax attention, approximated by positive random features in linear time.

    Args:
        num_features: number m of random features; null: twice `head_dim`.
    """

    formula = "f(q) Σ f(k) vᵀ / f(q) Σ f(k),  f(x) = exp(W x - |x|²/2),  W random, orthogonal"
    directions: Tensor
    paper = "Choromanski et al. 2020, arXiv:2009.14794"

    def __init__(self, dim: int, *, num_features: int | None = None, **options) -> None:
        super().__init__(dim, **options)
        count = 2 * self.head_dim if num_features is None else num_features
        if count < 1:
            raise ValueError(f"num_features must be at least 1, got {count}")
        self.register_buffer("directions", _orthogonal(count, self.head_dim))

    def features(self, x: Tensor) -> Tensor:
        """Positive random features: (B, H, N, D) -> (B, H, N, m)."""
        x = x * self.head_dim**-0.25
        exponent = x @ self.directions.to(x.dtype).mT - x.square().sum(dim=-1, keepdim=True) / 2
        return (exponent - math.log(self.directions.shape[0]) / 2).exp()


def _orthogonal(count: int, width: int) -> Tensor:
    """(count, width): blocks of orthogonal rows, with the lengths of normal vectors."""
    blocks = [
        torch.linalg.qr(torch.randn(width, width)).Q.mT for _ in range(math.ceil(count / width))
    ]
    return torch.cat(blocks)[:count] * torch.randn(count, width).norm(dim=-1, keepdim=True)
