"""Induction heads. Fu et al. 2022 (H3), arXiv:2212.14052, section 3.1; Olsson et al. 2022,
arXiv:2209.11895.
"""

from __future__ import annotations

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.pair_batch import IGNORED
from attnkit.data.synthetic.base import SyntheticSource, require
from attnkit.registry import SYNTHETIC


@SYNTHETIC.register("induction")
class Induction(SyntheticSource):
    """A special token among random ones, and once more at the end: output what followed it.

        7 2 * 5 0 2 9 *        at the last *: 5

    As in H3 (arXiv:2212.14052, section 3.1), with a vocabulary of 20 tokens; in Zoology and MAD it
    is recall with one query (`multi_query_recall` has several).

    Args:
        vocab_size: number of tokens, including the special one.
    """

    needs = "the special token, its successor, and the special token again need 3 tokens"

    def __init__(self, *, vocab_size: int = 20, **options) -> None:
        super().__init__(**options)
        require("vocab_size", vocab_size, 3)
        self.vocab_size = vocab_size
        self.check_lengths()

    @property
    def symbols(self) -> list[str]:
        return [*map(str, range(self.vocab_size - 1)), "*"]

    def allows(self, length: int) -> bool:
        return length >= 3

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        special = self.vocab_size - 1
        tokens = numbers.below(special, count, length)
        places = numbers.below(length - 2, count)
        rows = np.arange(count)
        tokens[rows, places] = special
        tokens[:, -1] = special
        answers = np.full((count, length), IGNORED, dtype=np.int64)
        answers[:, -1] = tokens[rows, places + 1]
        return tokens, answers
