"""Rotary positions (RoPE). Su et al. 2021, arXiv:2104.09864, section 3.2 and equation 34.

Rotates each pair of features by an angle that grows with the position, so that (R_i q) . (R_j k)
depends on i - j only. Pairs are (i, i + D/2), as in GPT-NeoX; the paper pairs neighbours, which is
the same up to a fixed permutation of the features.
"""

import torch
from torch import Tensor

from attnkit.once import once
from attnkit.positions.base import AttentionPosition
from attnkit.registry import POSITIONS


@POSITIONS.register("rotary")
class Rotary(AttentionPosition):
    """Rotates queries and keys by angles that grow with their positions, so that scores depend on
    distances.

    Args:
        base: ratio of the longest wavelength to the shortest.
    """

    acts_on = "queries_and_keys"

    def __init__(self, num_heads: int, head_dim: int, *, base: float = 10000.0) -> None:
        super().__init__(num_heads, head_dim)
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, got {head_dim}")
        self.base = base

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Rotates (B, H, T, D) at positions (T,). Angles are float32: in bfloat16 neighbours would
        be equal.
        """
        half = heads.shape[-1] // 2
        cos, sin = once(_tables, positions, half, self.base, heads.dtype)
        return torch.addcmul(heads * cos, heads.roll(half, dims=-1), sin)


def _tables(positions: Tensor, half: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns cosines and signed sines of all angles: (T, D) each."""
    pair = torch.arange(half, device=positions.device, dtype=torch.float32)
    angle = positions[:, None].float() * base ** (-pair / half)  # (T, D/2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)
