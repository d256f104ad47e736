"""The contract of synthetic tasks.

A task draws sequences of symbols and, for some positions, the answers expected there. **The model
never reads an answer**, so that accuracy means the same under any mask: a model that sees the
future sees no answers there.

Shape letters: `N` sequences, `T` tokens in each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.pair_batch import IGNORED
from attnkit.errors import DataError

BLANK = "."
"""Text of the blank token: filler, or a place for an answer."""


class SyntheticSource(ABC):
    """A task whose sequences are drawn at random.

    A subclass calls `check_lengths` at the end of its `__init__`.

    Args:
        length: tokens of a training sequence, as the model reads it.
        min_length: if set, each batch has its own length, drawn uniformly from the allowed lengths
            between this and `length`.
        test_lengths: lengths of further test sets, each with its own accuracy.
        num_eval: sequences of the validation set, and of the test set of each length.

    Attributes:
        train_lengths: lengths of the training batches.
    """

    train_lengths: tuple[int, ...]
    needs: str
    """Describes the allowed lengths, for messages."""

    def __init__(
        self,
        *,
        length: int = 64,
        min_length: int | None = None,
        test_lengths: tuple[int, ...] = (),
        num_eval: int = 512,
    ) -> None:
        if num_eval < 1:
            raise DataError(f"data.num_eval must be at least 1, got {num_eval}")
        self.length = length
        self.min_length = min_length
        self.test_lengths = test_lengths
        self.num_eval = num_eval

    def check_lengths(self) -> None:
        """Sets `train_lengths`.

        Raises:
            DataError: if the task does not allow a length.
        """
        if not self.allows(self.length):
            raise DataError(f"data.length {self.length} does not fit: {self.needs}")
        for length in self.test_lengths:
            if not self.allows_beside(length):
                raise DataError(f"data.test_lengths {length} does not fit: {self.needs}")
        repeated = [n for i, n in enumerate(self.test_lengths) if n in self.test_lengths[:i]]
        if repeated:
            raise DataError(f"data.test_lengths names {repeated[0]} twice")
        shortest = self.length if self.min_length is None else self.min_length
        if shortest > self.length:
            raise DataError(
                f"data.min_length {shortest} must be no more than data.length {self.length}"
            )
        lengths = range(max(shortest, 1), self.length + 1)
        self.train_lengths = tuple(filter(self.allows_beside, lengths))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that a model reads."""
        return max(self.length, *self.test_lengths, 0)

    @property
    @abstractmethod
    def symbols(self) -> list[str]:
        """The vocabulary: the text of each token, without spaces."""

    @abstractmethod
    def allows(self, length: int) -> bool:
        """True if `length` may have this value."""

    def allows_beside(self, length: int) -> bool:
        """True if further sequences, shorter ones in training (`min_length`) or those of another
        test set, may have this length; default: `allows`.
        """
        return self.allows(length)

    @abstractmethod
    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws sequences.

        Args:
            numbers: source of all randomness.
            count: number of sequences, N.
            length: tokens of each, T, an allowed length.

        Returns:
            (N, T) int64 tokens, and (N, T) int64 answers: the expected output after each token, or
            `IGNORED`.
        """


def require(key: str, value: int, least: int) -> None:
    """Raises a DataError if an option is too small."""
    if value < least:
        raise DataError(f"data.{key} must be at least {least}, got {value}")


class Rewriting(SyntheticSource):
    """A task that writes symbols in another order: n symbols, a sign, n - 1 blanks; the answers
    begin at the sign.

    A sequence of `length` tokens has half as many symbols. Answers are not read back, so each has
    to be found without the ones before it.

    Args:
        vocab_size: number of tokens, including blank and sign.
    """

    needs = "it must be even: one half symbols, one half places for answers"

    def __init__(self, *, vocab_size: int = 18, **options) -> None:
        super().__init__(**options)
        require("vocab_size", vocab_size, 4)
        self.vocab_size = vocab_size
        self.check_lengths()

    @property
    def symbols(self) -> list[str]:
        return [*map(str, range(self.vocab_size - 2)), BLANK, "|"]

    def allows(self, length: int) -> bool:
        return length >= 2 and length % 2 == 0

    @abstractmethod
    def rewritten(self, symbols: np.ndarray) -> np.ndarray:
        """Returns the answers (N, n) for the symbols (N, n)."""

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        half = length // 2
        tokens = np.full((count, length), self.vocab_size - 2, dtype=np.int64)
        tokens[:, :half] = numbers.below(self.vocab_size - 2, count, half)
        tokens[:, half] = self.vocab_size - 1
        answers = np.full((count, length), IGNORED, dtype=np.int64)
        answers[:, half:] = self.rewritten(tokens[:, :half])
        return tokens, answers
