"""Rotary positions (RoPE). Su et al. 2021, arXiv:2104.09864, section 3.2 and equation 34.

Rotates each pair of features by an angle that grows with the position, so that (R_i q) . (R_j k)
depends on i - j only. Pairs are (i, i + D/2), as in GPT-NeoX; the paper pairs neighbours, which is
the same up to a fixed permutation of the features.

`share` does not rotate the slowest pairs, which then only carry content: partial rotary,
Barbero et al. 2024, arXiv:2410.06205. `factor` extends a model to longer sequences than in
training: YaRN, Peng et al. 2023, arXiv:2309.00071.
"""

import math

import torch
from torch import Tensor

from attnkit.masks.once import once
from attnkit.positions.base import AttentionPosition
from attnkit.registry import POSITIONS

FEWEST, MOST = 1.0, 32.0
"""Rotations within the training length below which a pair is slowed down by the whole factor, and
above which it is unchanged: alpha and beta of YaRN."""


@POSITIONS.register("rotary")
class Rotary(AttentionPosition):
    """Rotates queries and keys by angles that grow with their positions, so that scores depend on
    distances.

    Args:
        base: ratio of the longest wavelength to the shortest.
        share: share of the pairs that are rotated, the fastest first.
        factor: ratio of the longest sequence to `trained_tokens`; slow pairs are slowed down by it,
            and scores sharpened. 1: no change.
        trained_tokens: length of the training's sequences; required with a factor.
    """

    acts_on = "queries_and_keys"

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        base: float = 10000.0,
        share: float = 1.0,
        factor: float = 1.0,
        trained_tokens: int | None = None,
    ) -> None:
        super().__init__(num_heads, head_dim)
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, got {head_dim}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        if factor > 1 and (trained_tokens is None or trained_tokens < 1):
            raise ValueError(
                f"factor {factor} needs the length of the training's sequences: set trained_tokens"
            )
        self.base, self.share, self.factor, self.trained_tokens = (
            base,
            share,
            factor,
            trained_tokens,
        )

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Rotates (B, H, T, D) at positions (T,). Angles are float32: in bfloat16 neighbours would
        be equal.
        """
        half = heads.shape[-1] // 2
        options = (self.base, self.share, self.factor, self.trained_tokens)
        cos, sin = once(_tables, positions, half, heads.dtype, *options)
        return torch.addcmul(heads * cos, heads.roll(half, dims=-1), sin)


def _tables(
    positions: Tensor,
    half: int,
    dtype: torch.dtype,
    base: float,
    share: float,
    factor: float,
    trained_tokens: int | None,
) -> tuple[Tensor, Tensor]:
    """Returns cosines and signed sines of all angles: (T, D) each."""
    pair = torch.arange(half, device=positions.device, dtype=torch.float32)
    speed = base ** (-pair / half)  # radians per token
    if share < 1:
        speed = speed * (pair < share * half)
    gain = 1.0
    if factor > 1 and trained_tokens is not None:
        turns = trained_tokens * speed / (2 * math.pi)
        kept = ((turns - FEWEST) / (MOST - FEWEST)).clamp(0, 1)
        speed = speed * (kept + (1 - kept) / factor)
        gain = 0.1 * math.log(factor) + 1  # for queries and for keys: scores get its square
    angle = positions[:, None].float() * speed  # (T, D/2)
    cos, sin = angle.cos() * gain, angle.sin() * gain
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)
