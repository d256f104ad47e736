"""Attention with linear biases (ALiBi). Press et al. 2021, arXiv:2108.12409, section 3.

score[i, j] = q_i . k_j / sqrt(D) - slope_h |i - j|
"""

import math

import torch
from torch import Tensor

from attnkit.positions.base import AttentionPosition
from attnkit.registry import POSITIONS


def alibi_slopes(num_heads: int) -> list[float]:
    """Returns the paper's slopes: 2^(-8/H), 2^(-16/H), ...

    If H is not a power of two, those of the next lower power P, then every other slope of 2P: the
    interpolation of the paper's footnote and published code.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    finer = [2 ** (-8 * (h + 1) / (2 * power)) for h in range(2 * power)]
    return slopes + finer[0::2][: num_heads - power]


@POSITIONS.register("alibi")
class Alibi(AttentionPosition):
    """Scores fall linearly with the distance, each head with its own slope; nothing is learned; any
    length.
    """

    acts_on = "scores"

    slopes: Tensor

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads, head_dim)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(num_heads)), persistent=False)

    def by_distance(self, distance: Tensor) -> Tensor:
        return -self.slopes.view(-1, 1) * distance.abs()

    def score_mod(self, score: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - self.slopes[head] * (query - key).abs()
