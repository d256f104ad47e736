"""Multi-query associative recall. Arora et al. 2023 (Zoology), arXiv:2312.04927."""

from __future__ import annotations

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.pair_batch import IGNORED
from attnkit.data.synthetic.base import BLANK, SyntheticSource, require
from attnkit.errors import DataError
from attnkit.registry import SYNTHETIC


@SYNTHETIC.register("multi_query_recall")
class MultiQueryRecall(SyntheticSource):
    """Pairs of key and value, then each key once more in any order: output its value.

        k3 v5 k1 v2 .  .  k1 .  k3 .        at the second k1: v2; at the second k3: v5

    As in Zoology's `multiquery_ar`: token 0 is the blank, keys are the tokens from 1 to V/2 - 1,
    values those from V/2 on; the keys of a sequence differ, and so do its values. Each key is
    queried once, at every second place after the pairs, g = 1, 2, ... from the left, drawn with
    probability proportional to g^(a - 1). Unused places contain random tokens of the whole
    vocabulary. Two differences: each step draws new sequences, where Zoology repeats a fixed set,
    and the size, where Zoology has 8,192 tokens. For its mixtures of short sequences with few pairs
    and longer ones with more, see `min_length`.

    Args:
        vocab_size: number V of tokens, even.
        num_pairs: number of pairs in a sequence of `length` tokens, which must be at least four
            times as many; a shorter one, in training (`min_length`) or in a test (`test_lengths`),
            has one pair per four tokens.
        power_a: the exponent a; 1: all places are equally likely, near 0: the first are preferred.
        random_filler: put random tokens in unused places; false: blanks.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 64,
        num_pairs: int = 4,
        power_a: float = 0.01,
        random_filler: bool = True,
        **options,
    ) -> None:
        super().__init__(**options)
        require("num_pairs", num_pairs, 1)
        least = 2 * num_pairs + 2
        if vocab_size % 2 or vocab_size < least:
            raise DataError(
                f"data.vocab_size {vocab_size} does not fit: for data.num_pairs {num_pairs} it "
                f"must be even and at least {least}, one half keys and one half values"
            )
        self.vocab_size = vocab_size
        self.num_pairs = num_pairs
        self.power_a = power_a
        self.random_filler = random_filler
        self.needs = f"data.num_pairs {num_pairs} needs an even number, {4 * num_pairs} or more"
        self.check_lengths()

    def allows_beside(self, length: int) -> bool:
        return length % 2 == 0 and length >= 4

    @property
    def symbols(self) -> list[str]:
        half = self.vocab_size // 2
        return [BLANK, *(f"k{i}" for i in range(1, half)), *(f"v{i}" for i in range(half))]

    def allows(self, length: int) -> bool:
        return length % 2 == 0 and length >= 4 * self.num_pairs

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        pairs, half = min(self.num_pairs, length // 4), self.vocab_size // 2
        keys = 1 + numbers.distinct(half - 1, count, pairs)
        values = half + numbers.distinct(half, count, pairs)
        slots = np.arange(1, (length - 2 * pairs) // 2 + 1)
        places = 2 * pairs + 2 * numbers.weighted(slots ** (self.power_a - 1.0), count, pairs)
        if self.random_filler:
            tokens = numbers.below(self.vocab_size, count, length)
        else:
            tokens = np.zeros((count, length), dtype=np.int64)
        tokens[:, 0 : 2 * pairs : 2] = keys
        tokens[:, 1 : 2 * pairs : 2] = values
        np.put_along_axis(tokens, places, keys, axis=1)
        answers = np.full((count, length), IGNORED, dtype=np.int64)
        np.put_along_axis(answers, places, values, axis=1)
        return tokens, answers
