"""Memorisation of a fixed table. Poli et al. 2024 (MAD), arXiv:2403.17844."""

from __future__ import annotations

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.pair_batch import IGNORED
from attnkit.data.synthetic.base import SyntheticSource, require
from attnkit.errors import DataError
from attnkit.registry import SYNTHETIC

TABLE = 2**63 + 2**32
"""First key of the generator of the tables; no sequences are drawn with it."""

MAX_FACTS = 2**22


@SYNTHETIC.register("ngram_memorisation")
class NgramMemorisation(SyntheticSource):
    """Each n-gram of keys has a fixed value: output it. The sequence itself does not reveal it.

        k3 k1 ? k0 k3 ? k1 k1 ?        at each ?: the value of the two keys before it

    With `n: 1` it is MAD's memorisation: one half of the vocabulary are keys, one half values, each
    key has its own value, and the last token is a query. With larger `n` each value belongs to
    equally many n-grams, which MAD does not have. Training and test contain the same facts in
    different order.

    Args:
        vocab_size: number of tokens, odd: keys, as many values, and the query token.
        n: number of keys that have a value together.
        table_seed: draws the values, independently of the run's seed.
    """

    def __init__(self, *, vocab_size: int = 33, n: int = 2, table_seed: int = 0, **options) -> None:
        super().__init__(**options)
        require("n", n, 1)
        require("table_seed", table_seed, 0)
        self.num_keys = (vocab_size - 1) // 2
        if vocab_size % 2 == 0 or self.num_keys < 2:
            raise DataError(
                f"data.vocab_size {vocab_size} does not fit: it must be odd and at least 5, for as "
                "many keys as values, and one query token"
            )
        if self.num_keys**n > MAX_FACTS:
            raise DataError(
                f"data.n {n} with {self.num_keys} keys gives {self.num_keys**n:,} facts; use at "
                f"most {MAX_FACTS:,}"
            )
        self.vocab_size = vocab_size
        self.n = n
        self.needs = f"with data.n {n} it must be a multiple of {n + 1}: keys, and the query token"
        facts = self.num_keys**n
        order = KeyedRandom(TABLE, table_seed).distinct(facts, 1, facts)[0]
        self.values = self.num_keys + order % self.num_keys  # each equally often
        self.check_lengths()

    @property
    def symbols(self) -> list[str]:
        numbers = range(self.num_keys)
        return [*(f"k{i}" for i in numbers), *(f"v{i}" for i in numbers), "?"]

    def allows(self, length: int) -> bool:
        return length > 0 and length % (self.n + 1) == 0

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        keys = numbers.below(self.num_keys, count, length // (self.n + 1), self.n)
        facts = keys @ self.num_keys ** np.arange(self.n - 1, -1, -1)  # (N, T / (n + 1))
        tokens = np.full((*facts.shape, self.n + 1), self.vocab_size - 1, dtype=np.int64)
        tokens[..., :-1] = keys
        answers = np.full(tokens.shape, IGNORED, dtype=np.int64)
        answers[..., -1] = self.values[facts]
        return tokens.reshape(count, length), answers.reshape(count, length)
