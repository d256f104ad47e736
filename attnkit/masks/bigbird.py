"""BigBird's blocks. Zaheer et al. 2020, arXiv:2007.14062.

A query sees the blocks around its own, the first blocks of the sequence, and some blocks drawn at
random; the first blocks see everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attnkit.masks.rules import Mask
from attnkit.registry import MASKS


@MASKS.register("bigbird")
@dataclass(frozen=True, kw_only=True)
class BigBird(Mask):
    """Blocks of keys: those nearby, the first ones, and some at random. Not causal by itself:
    combine it with `causal` to decode. arXiv:2007.14062.

    Each block draws its random blocks among the earlier ones that it does not already see, one from
    each of `num_random` equal parts of them, and the drawn blocks see it too. So the mask does not
    depend on the length of the sequence, and the same seed always draws the same blocks.

    Args:
        block_size: tokens in a block.
        window: blocks nearby that a query sees, its own in the middle; odd.
        num_global: first blocks, which see everything and are seen by all.
        num_random: earlier blocks that each block draws.
        seed: seed of the draws.
    """

    block_size: int = 16
    window: int = 3
    num_global: int = 1
    num_random: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and at least 1, got {self.window}")
        for name in ("num_global", "num_random", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query, key = query // self.block_size, key // self.block_size
        seen = (query - key).abs() <= self.window // 2
        seen = seen | self._is_global(query) | self._is_global(key)
        for draw in range(self.num_random):
            seen = seen | (self._drawn(query, draw) == key) | (self._drawn(key, draw) == query)
        return seen

    def _is_global(self, block: Tensor) -> Tensor:
        return (block >= 0) & (block < self.num_global)

    def _drawn(self, block: Tensor, draw: int) -> Tensor:
        """Returns the earlier block that each block draws; the block itself if there is none."""
        first = self.num_global
        count = (block - self.window // 2 - first).clamp(min=0)
        start, stop = (count * n // self.num_random for n in (draw, draw + 1))
        number = _scrambled(_scrambled(block + self.seed % _PRIME) + draw)
        drawn = first + start + number % (stop - start).clamp(min=1)
        return drawn.where(stop > start, block)


_RANGE = 1 << 16
_PRIME = 65521  # so that all digits of a large seed count


def _scrambled(number: Tensor) -> Tensor:
    """Maps integers to numbers from 0 to 65535 that look random, one to one within this range."""
    # No product exceeds 32 bits, the size of integers in some kernels.
    number = number % _RANGE
    for shift, factor in ((8, 27805), (7, 30029), (9, 31153)):
        number = ((number ^ (number >> shift)) * factor + 12345) % _RANGE
    return number ^ (number >> 8)
