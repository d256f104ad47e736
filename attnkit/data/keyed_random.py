"""Random numbers that depend on a key alone, not on what was drawn before or by whom."""

from __future__ import annotations

import math

import numpy as np


class KeyedRandom:
    """Numbers from a counter-based generator (Philox, Salmon et al. 2011) with two keys.

    Only raw bits are taken from numpy, because it keeps those the same for ever, and its
    distributions not.

    Args:
        first: from 0 to 2^64 - 1, as is `second`.
        second: two generators that differ in either give unrelated numbers.
    """

    def __init__(self, first: int, second: int) -> None:
        self._generator = np.random.Philox(key=np.array([first, second], dtype=np.uint64))

    def bits(self, *shape: int) -> np.ndarray:
        """Returns 64 random bits each, uint64, of a shape."""
        return self._generator.random_raw(math.prod(shape)).reshape(shape)

    def below(self, limit: int, *shape: int) -> np.ndarray:
        """Returns integers from 0 to `limit - 1`, int64, of a shape."""
        # With 64 bits the remainder's bias is far below anything measurable.
        return (self.bits(*shape) % np.uint64(limit)).astype(np.int64)

    def odd(self, *shape: int) -> np.ndarray:
        """Returns odd numbers of 64 bits, uint64, of a shape."""
        return self.bits(*shape) | np.uint64(1)

    def distinct(self, limit: int, rows: int, count: int) -> np.ndarray:
        """Returns (rows, count) integers from 0 to `limit - 1`; those of a row differ, and stand in
        random order.
        """
        return _smallest(self.bits(rows, limit), count)

    def weighted(self, weights: np.ndarray, rows: int, count: int) -> np.ndarray:
        """Returns (rows, count) distinct places in `weights`, drawn one after the other with
        chances in proportion to the weights that are left.

        Exponential times with these rates arrive in such an order (Efraimidis and Spirakis 2006).
        """
        uniform = ((self.bits(rows, len(weights)) >> np.uint64(11)) + 1) * 2.0**-53
        return _smallest(-np.log(uniform) / weights, count)


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` smallest of each row stand, the smallest first."""
    if count == 0:
        return np.zeros((len(values), 0), dtype=np.int64)
    places = np.argpartition(values, count - 1, axis=1)[:, :count]
    order = np.take_along_axis(values, places, axis=1).argsort(axis=1)
    return np.take_along_axis(places, order, axis=1)
