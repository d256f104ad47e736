"""Sinusoidal positions. Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

encoding[t, 2i] = sin(t / base^(2i/C))        encoding[t, 2i + 1] = cos(t / base^(2i/C))
"""

import torch
from torch import Tensor

from attnkit.positions.base import EmbeddingPosition
from attnkit.registry import POSITIONS


@POSITIONS.register("sinusoidal")
class Sinusoidal(EmbeddingPosition):
    """Fixed sines and cosines with geometrically spaced wavelengths, added to the embeddings; any
    length.

    Args:
        base: ratio of the longest wavelength to the shortest.
    """

    def __init__(self, dim: int, max_seq_len: int, *, base: float = 10000.0) -> None:
        super().__init__(dim, max_seq_len)
        if dim % 2:
            raise ValueError(f"sinusoidal positions need an even dim, got {dim}")
        self.base = base

    def forward(self, positions: Tensor) -> Tensor:
        """Encodes positions (T,) as (T, C), in float32."""
        pair = torch.arange(0, self.dim, 2, device=positions.device, dtype=torch.float32)
        angle = positions[:, None].float() * self.base ** (-pair / self.dim)  # (T, C/2)
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
