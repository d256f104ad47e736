"""Random numbers that depend on a key only, not on earlier draws or on the process."""

from __future__ import annotations

import math

import numpy as np


class KeyedRandom:
    """A counter-based generator (Philox, Salmon et al. 2011) with two keys.

    Args:
        first: from 0 to 2^64 - 1, as is `second`.
        second: generators that differ in either key give independent numbers.
    """

    # Uses numpy's raw bits only: they never change between versions, numpy's distributions may.

    def __init__(self, first: int, second: int) -> None:
        self._generator = np.random.Philox(key=np.array([first, second], dtype=np.uint64))

    def bits(self, *shape: int) -> np.ndarray:
        """Returns 64 random bits per element, uint64, of a shape."""
        return self._generator.random_raw(math.prod(shape)).reshape(shape)

    def below(self, limit: int, *shape: int) -> np.ndarray:
        """Returns integers from 0 to `limit - 1`, int64, of a shape."""
        # With 64 bits the bias of the remainder is negligible.
        return (self.bits(*shape) % np.uint64(limit)).astype(np.int64)

    def odd(self, *shape: int) -> np.ndarray:
        """Returns odd 64-bit numbers, uint64, of a shape."""
        return self.bits(*shape) | np.uint64(1)

    def distinct(self, limit: int, rows: int, count: int) -> np.ndarray:
        """Returns (rows, count) integers from 0 to `limit - 1`, without repetition within a row."""
        return _smallest(self.bits(rows, limit), count)

    def weighted(self, weights: np.ndarray, rows: int, count: int) -> np.ndarray:
        """Returns (rows, count) different indices into `weights`, drawn one after the other with
        probability proportional to the remaining weights (Efraimidis and Spirakis 2006).
        """
        # Exponential arrival times with these rates are in such an order.
        uniform = ((self.bits(rows, len(weights)) >> np.uint64(11)) + 1) * 2.0**-53
        return _smallest(-np.log(uniform) / weights, count)


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the `count` smallest values of each row, in ascending order."""
    if count == 0:
        return np.zeros((len(values), 0), dtype=np.int64)
    places = np.argpartition(values, count - 1, axis=1)[:, :count]
    order = np.take_along_axis(values, places, axis=1).argsort(axis=1)
    return np.take_along_axis(places, order, axis=1)
