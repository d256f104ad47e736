"""Random letters, repeated: text that can only be predicted from its own past."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.sources.base import TextSource
from attnkit.errors import DataError
from attnkit.registry import SOURCES

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@SOURCES.register("repeated_letters")
class RepeatedLetters(TextSource):
    """Random letters, several times: `kzqekzqekzqe`. No download.

    Each document is a line with its own letters. The first time, they cannot be predicted; from the
    second time on, the letter that followed the same letter before predicts them, which needs an
    induction head (Olsson et al. 2022, arXiv:2209.11895). Lengths vary, so that no fixed distance
    helps.

    Args:
        min_length: smallest number of letters before repetition.
        max_length: largest number of letters before repetition.
        repeats: number of times that the letters occur.
        num_train: number of training documents.
        num_val: number of validation documents.
        data_seed: draws the letters, independently of the run's seed.
    """

    def __init__(
        self,
        *,
        min_length: int = 3,
        max_length: int = 16,
        repeats: int = 3,
        num_train: int = 20000,
        num_val: int = 1000,
        data_seed: int = 0,
    ) -> None:
        if not 2 <= min_length <= max_length:
            raise DataError(
                f"data.min_length {min_length} must be at least 2 and no more than "
                f"data.max_length {max_length}"
            )
        if repeats < 1:
            raise DataError(f"data.repeats must be at least 1, got {repeats}")
        if min(num_train, num_val) < 1:
            raise DataError("data.num_train and data.num_val must be at least 1")
        if data_seed < 0:
            raise DataError(f"data.data_seed must be at least 0, got {data_seed}")
        self.lengths = (min_length, max_length)
        self.repeats = repeats
        self.sizes = {"train": num_train, "val": num_val}
        self.data_seed = data_seed

    def documents(self, split: str) -> Iterator[str]:
        self.check_split(split)
        yield from self._by_split[split]

    def num_bytes(self, split: str) -> int:
        return sum(map(len, self._by_split[split]))

    def fingerprint(self) -> str:
        options = (*self.lengths, self.repeats, *self.sizes.values(), self.data_seed)
        return hashlib.sha256(f"repeated_letters 1 {options}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "source": "random letters, repeated",
            "licence": "none needed",
            "documents": sum(self.sizes.values()),
            "bytes": sum(self.num_bytes(split) for split in self.splits),
            "sha256": self.fingerprint(),
        }

    @cached_property
    def _by_split(self) -> dict[str, list[str]]:
        return {split: self._draw(key, self.sizes[split]) for key, split in enumerate(self.splits)}

    def _draw(self, key: int, count: int) -> list[str]:
        shortest, longest = self.lengths
        numbers = KeyedRandom(self.data_seed, key)
        lengths = shortest + numbers.below(longest - shortest + 1, count)
        letters = np.array(list(LETTERS))[numbers.below(len(LETTERS), count, longest)]
        rows = zip(letters, lengths, strict=True)
        return ["".join(row[:length]) * self.repeats + "\n" for row, length in rows]
