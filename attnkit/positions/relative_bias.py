"""T5's relative position bias. Raffel et al. 2019, arXiv:1910.10683, section 2.1.

    score[i, j] = q_i . k_j / sqrt(D) + table[bucket(j - i), h]

Short distances have their own bucket; longer ones share buckets whose width grows logarithmically
up to `max_distance`. Differs from T5 in that each layer learns its own table (T5 shares one), and
scores keep their 1 / sqrt(D).
"""

import math

import torch
from torch import Tensor, nn

from attnkit.positions.base import AttentionPosition
from attnkit.registry import POSITIONS


@POSITIONS.register("relative_bias")
class RelativeBias(AttentionPosition):
    """Adds a learned number to each score, by head and by bucket of the distance (T5); any length.

    Args:
        num_buckets: total number of buckets, one half for keys ahead, one for keys behind.
        max_distance: all longer distances share the last bucket.
    """

    acts_on = "scores"

    def __init__(
        self, num_heads: int, head_dim: int, *, num_buckets: int = 64, max_distance: int = 128
    ) -> None:
        super().__init__(num_heads, head_dim)
        if num_buckets < 4 or num_buckets % 4:
            raise ValueError(f"num_buckets must be a multiple of 4, got {num_buckets}")
        if max_distance <= num_buckets // 4:
            raise ValueError(
                f"max_distance {max_distance} must exceed the {num_buckets // 4} exact buckets "
                f"per side of num_buckets {num_buckets}"
            )
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.table = nn.Embedding(num_buckets, num_heads)

    def bucket(self, distance: Tensor) -> Tensor:
        """Returns the bucket of key position minus query position, elementwise."""
        side = self.num_buckets // 2
        exact = side // 2
        steps = distance.abs()
        fraction = torch.log(steps.clamp(min=1) / exact) / math.log(self.max_distance / exact)
        far = (exact + fraction * (side - exact)).long().clamp(max=side - 1)
        return torch.where(distance > 0, side, 0) + torch.where(steps < exact, steps, far)

    def by_distance(self, distance: Tensor) -> Tensor:
        return self.table(self.bucket(distance)).movedim(-1, 0)
