"""Parity of bits."""

from __future__ import annotations

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.pair_batch import IGNORED
from attnkit.data.synthetic.base import SyntheticSource
from attnkit.registry import SYNTHETIC


@SYNTHETIC.register("parity")
class Parity(SyntheticSource):
    """Random bits, then a sign: output the parity of the number of ones.

        1 0 1 1 =        at the sign: 1

    As in Zoology's `circuits` data: there is one answer, after the bits, or (`cumulative`) one at
    every bit, for the bits up to it, without a sign.

    Args:
        cumulative: expect an answer at every bit.
    """

    needs = "parity needs at least 2 tokens"

    def __init__(self, *, cumulative: bool = False, **options) -> None:
        super().__init__(**options)
        self.cumulative = cumulative
        self.check_lengths()

    @property
    def symbols(self) -> list[str]:
        return ["0", "1"] if self.cumulative else ["0", "1", "="]

    def allows(self, length: int) -> bool:
        return length >= 2

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = numbers.below(2, count, length)
        if self.cumulative:
            return tokens, tokens.cumsum(axis=1) % 2
        tokens[:, -1] = 2
        answers = np.full((count, length), IGNORED, dtype=np.int64)
        answers[:, -1] = tokens[:, :-1].sum(axis=1) % 2
        return tokens, answers
