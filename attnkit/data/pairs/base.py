"""What a source of sentence pairs is: the contract between them and everything behind them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from attnkit.data.sources.base import TextSource
from attnkit.errors import DataError

CharacterSpan = tuple[int, int]
"""First character, and the one behind the last."""


class SpanLink(NamedTuple):
    """One link of a gold alignment: a stretch of the source means a stretch of the target.

    Attributes:
        source: where in the source.
        target: where in the target.
        sure: False for a link that is possible but not needed (Och and Ney 2003).
    """

    source: CharacterSpan
    target: CharacterSpan
    sure: bool = True


class Pair(NamedTuple):
    """A sentence and its translation.

    Attributes:
        source: the sentence.
        target: its translation.
        links: the gold alignment; None where there is none.
    """

    source: str
    target: str
    links: tuple[SpanLink, ...] | None = None


class PairSource(ABC):
    """Sentence pairs in named splits, in an order that never changes.

    A subclass takes its options as keyword-only parameters, and touches no data in `__init__`.

    Attributes:
        source_language: name of the language to translate from.
        target_language: name of the language to translate into.
    """

    source_language: str = "source"
    target_language: str = "target"

    exact_match: ClassVar[bool] = False
    """True where only one translation is right, so that sentences that match count."""

    @property
    @abstractmethod
    def test_splits(self) -> tuple[str, ...]:
        """The splits besides `train` and `val`; each gets a number of its own at the end."""

    @abstractmethod
    def pairs(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of a split.

        Raises:
            DataError: if the data is missing or damaged, or there is no such split.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a sha256 over all that `pairs` depends on; prepared data is found by it."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what goes into the record of a run, in plain types."""

    def check_split(self, split: str) -> None:
        """Raises a DataError unless there is such a split."""
        known = ("train", "val", *self.test_splits)
        if split not in known:
            raise DataError(f"there is no split `{split}` (there are: {', '.join(known)})")


class PairTexts(TextSource):
    """The sentences of a pair source as texts: what a vocabulary is trained on.

    Args:
        source: the pairs.
        sides: `source`, `target`, or both for a joint vocabulary.
    """

    def __init__(self, source: PairSource, sides: tuple[str, ...]) -> None:
        self.source = source
        self.sides = sides

    def documents(self, split: str) -> Iterator[str]:
        """Yields every sentence of the chosen sides."""
        for pair in self.source.pairs(split):
            for side in self.sides:
                yield getattr(pair, side)

    def num_bytes(self, split: str) -> int:
        """Returns the size of a split in bytes."""
        return sum(len(text.encode()) for text in self.documents(split))

    def fingerprint(self) -> str:
        """Returns a sha256 over the pairs and the sides."""
        return sha256_of_texts([self.source.fingerprint(), *self.sides])

    def describe(self) -> dict[str, Any]:
        """Returns what the pairs say of themselves."""
        return self.source.describe()


class SplitByText:
    """Deals pairs to splits by a hash of the source sentence: a sentence never stands in two.

    Args:
        shares: split -> its share in hundredths; the rest is `train`.
    """

    def __init__(self, shares: dict[str, int]) -> None:
        self.shares = shares

    def __call__(self, source: str) -> str:
        """Returns the split of a sentence."""
        place = int.from_bytes(hashlib.blake2b(source.encode(), digest_size=8).digest()) % 100
        for split, share in self.shares.items():
            if place < share:
                return split
            place -= share
        return "train"

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The splits besides `train`."""
        return tuple(self.shares)


def sha256_of_texts(texts: Iterable[str]) -> str:
    """Returns a sha256 over texts, each ended by a zero byte so that their borders count."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()
