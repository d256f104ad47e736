"""Reversed letters: the smallest task that needs cross-attention."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from attnkit.data.pairs.base import Pair, PairSource, SpanLink, sha256_of_texts
from attnkit.errors import DataError
from attnkit.registry import PAIRS

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@PAIRS.register("reverse")
class Reverse(PairSource):
    """Random letters and their reversal: cross-attention learns the antidiagonal.

    Letters are separated by spaces ("a b c"), so that each is a word.

    Args:
        num_letters: size of the alphabet, at most 26.
        min_length: letters of the shortest line.
        max_length: letters of the longest line.
        num_train: number of training pairs.
        num_val: number of validation pairs, and of test pairs.
        data_seed: draws the letters, independently of the run's seed.
    """

    source_language = "letters"
    target_language = "letters backwards"
    exact_match = True

    def __init__(
        self,
        *,
        num_letters: int = 16,
        min_length: int = 4,
        max_length: int = 12,
        num_train: int = 8000,
        num_val: int = 300,
        data_seed: int = 0,
    ) -> None:
        if not 2 <= num_letters <= len(LETTERS):
            raise DataError(f"data.num_letters must be from 2 to {len(LETTERS)}, got {num_letters}")
        if not 1 <= min_length <= max_length:
            raise DataError(
                f"data.min_length {min_length} must be at least 1 and no more than "
                f"data.max_length {max_length}"
            )
        if min(num_train, num_val) < 1:
            raise DataError("data.num_train and data.num_val must be at least 1")
        if num_letters**max_length < 4 * (num_train + 2 * num_val):
            raise DataError(
                f"data.num_letters {num_letters} and data.max_length {max_length} allow too few "
                "different lines; raise one of them, or use fewer pairs"
            )
        self.num_letters = num_letters
        self.lengths = (min_length, max_length)
        self.sizes = {"val": num_val, "test": num_val, "train": num_train}
        self.data_seed = data_seed

    @property
    def test_splits(self) -> tuple[str, ...]:
        return ("test",)

    def pairs(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of a split; no line is in two splits."""
        self.check_split(split)
        draw = random.Random(self.data_seed)
        seen: set[str] = set()
        for name, size in self.sizes.items():
            for _ in range(size):
                line = self._line(draw, seen)
                if name == split:
                    yield _reversed(line)
            if name == split:
                return

    def _line(self, draw: random.Random, seen: set[str]) -> str:
        while True:
            line = " ".join(
                LETTERS[draw.randrange(self.num_letters)]
                for _ in range(draw.randint(*self.lengths))
            )
            if line not in seen:
                seen.add(line)
                return line

    def fingerprint(self) -> str:
        options = [self.num_letters, *self.lengths, *self.sizes.values(), self.data_seed]
        return sha256_of_texts(["reverse 1", *map(str, options)])

    def describe(self) -> dict[str, Any]:
        return {
            "source": "random letters, reversed",
            "licence": "none needed",
            "pairs": self.sizes,
            "sha256": self.fingerprint(),
        }


def _reversed(line: str) -> Pair:
    last = len(line) - 1
    letters = range(0, len(line), 2)  # a space follows each but the last
    links = tuple(SpanLink((last - t, last - t + 1), (t, t + 1)) for t in letters)
    return Pair(line, line[::-1], links)
