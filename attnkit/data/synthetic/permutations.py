"""The word problem of the symmetric group, a test of state tracking."""

from __future__ import annotations

import itertools

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.synthetic.base import SyntheticSource
from attnkit.errors import DataError
from attnkit.registry import SYNTHETIC

LARGEST = 5
"""Items; a vocabulary of 120 permutations."""


@SYNTHETIC.register("permutations")
class Permutations(SyntheticSource):
    """Random permutations, applied to a row of n items one after another: after each, output the
    row.

        102 021 102        answers: 102, 120, 210

    The word problem of the group S_n, with which *The Illusion of State in State-Space Models*
    (Merrill et al. 2024, arXiv:2404.08819) and DeltaProduct (arXiv:2502.10297) test state tracking.
    Every answer depends on all permutations so far, in order. For n = 2 it is running parity.

    Args:
        num_items: number n of items, 2 to 5: the vocabulary has n! permutations.
    """

    needs = "permutations need at least 2 tokens"

    def __init__(self, *, num_items: int = 3, **options) -> None:
        super().__init__(**options)
        if not 2 <= num_items <= LARGEST:
            raise DataError(f"data.num_items must be 2 to {LARGEST}, got {num_items}")
        self.num_items = num_items
        self.check_lengths()
        orders = np.array(list(itertools.permutations(range(num_items))))
        number = {tuple(order): i for i, order in enumerate(orders.tolist())}
        # products[i, j]: the row i after the permutation j.
        self._products = np.array([[number[tuple(a[b])] for b in orders] for a in orders])

    @property
    def symbols(self) -> list[str]:
        items = map(str, range(self.num_items))
        return ["".join(order) for order in itertools.permutations(items)]

    def allows(self, length: int) -> bool:
        return length >= 2

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = numbers.below(len(self._products), count, length)
        answers = tokens.copy()
        for i in range(1, length):
            answers[:, i] = self._products[answers[:, i - 1], tokens[:, i]]
        return tokens, answers
