"""Translations in one file: source, tab, target, and further columns that are ignored."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from attnkit.data.line_files import read_lines
from attnkit.data.pairs.base import Pair, PairSource, SplitByText, sha256_of_texts
from attnkit.errors import DataError
from attnkit.registry import PAIRS


@PAIRS.register("tsv")
class Tsv(PairSource):
    """A UTF-8 file of tab-separated pairs in Tatoeba's format: source, target, the rest is ignored.

    A hash of the source sentence decides the split of a pair, so that no tested sentence is trained
    on, regardless of order and repetitions.

    Args:
        file: the file, plain or gzipped, relative to the recipe or the working directory.
        swap: translate the second column into the first.
        val_percent: per cent of the sentences for validation.
        test_percent: per cent of the sentences for the test.
        source_language: name of the source language.
        target_language: name of the target language.
    """

    def __init__(
        self,
        *,
        file: Path,
        swap: bool = False,
        val_percent: int = 5,
        test_percent: int = 5,
        source_language: str = "source",
        target_language: str = "target",
    ) -> None:
        for name, percent in (("val_percent", val_percent), ("test_percent", test_percent)):
            if not 1 <= percent <= 40:
                raise DataError(f"data.{name} must be from 1 to 40, got {percent}")
        self.file = file
        self.swap = swap
        self.split_of = SplitByText({"val": val_percent, "test": test_percent})
        self.source_language = source_language
        self.target_language = target_language

    @property
    def test_splits(self) -> tuple[str, ...]:
        return ("test",)

    def path(self) -> Path:
        """The file."""
        return Path(self.file).expanduser()

    def pairs(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of a split, in the file's order."""
        self.check_split(split)
        yield from (pair for pair in self._pairs if self.split_of(self._first(pair)) == split)

    def _first(self, pair: Pair) -> str:
        """Returns the first column, so that both directions have the same splits."""
        return pair.target if self.swap else pair.source

    @cached_property
    def _pairs(self) -> list[Pair]:
        path = self.path()
        pairs = []
        for number, line in enumerate(read_lines(path), start=1):
            columns = line.split("\t")
            if len(columns) < 2:
                raise DataError(
                    f"{path}:{number}: expected source, tab, target; there is no tab in the line"
                )
            first, second = columns[:2]
            pairs.append(Pair(second, first) if self.swap else Pair(first, second))
        if not pairs:
            raise DataError(f"{path} is empty")
        return pairs

    def fingerprint(self) -> str:
        texts = (text for pair in self._pairs for text in pair[:2])
        return sha256_of_texts([str(self.split_of.shares), str(self.swap), *texts])

    def describe(self) -> dict[str, Any]:
        splits = ("train", "val", "test")
        return {
            "source": str(self.path()),
            "licence": "the user's own",
            "pairs": {split: sum(1 for _ in self.pairs(split)) for split in splits},
            "sha256": self.fingerprint(),
        }
