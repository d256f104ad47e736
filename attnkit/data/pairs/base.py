"""The contract of sources of sentence pairs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from attnkit.data.sources.base import TextSource
from attnkit.errors import DataError

CharacterSpan = tuple[int, int]
"""First character, and one past the last."""


class SpanLink(NamedTuple):
    """One link of a gold alignment: a span of the source translates a span of the target.

    Attributes:
        source: span of the source.
        target: span of the target.
        sure: False for a link that is possible but not required (Och and Ney 2003).
    """

    source: CharacterSpan
    target: CharacterSpan
    sure: bool = True


class Pair(NamedTuple):
    """A sentence and its translation.

    Attributes:
        source: the sentence.
        target: its translation.
        links: the gold alignment; None if there is none.
    """

    source: str
    target: str
    links: tuple[SpanLink, ...] | None = None


class PairSource(ABC):
    """Sentence pairs in named splits, in a fixed order.

    A subclass takes its options as keyword-only parameters, and reads no data in `__init__`.

    Attributes:
        source_language: language to translate from.
        target_language: language to translate into.
    """

    source_language: str = "source"
    target_language: str = "target"

    exact_match: ClassVar[bool] = False
    """True if only one translation is right, so that exact matches are counted."""

    @property
    @abstractmethod
    def test_splits(self) -> tuple[str, ...]:
        """The splits other than `train` and `val`; each is scored at the end of a run."""

    @abstractmethod
    def pairs(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of a split.

        Raises:
            DataError: if the data is missing or damaged, or the split does not exist.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a sha256 over all that `pairs` depends on; it identifies prepared data."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns the entry for the record of a run, in plain types."""

    def check_split(self, split: str) -> None:
        """Raises a DataError if the split does not exist."""
        known = ("train", "val", *self.test_splits)
        if split not in known:
            raise DataError(f"there is no split `{split}` (there are: {', '.join(known)})")


class PairTexts(TextSource):
    """The sentences of a pair source as texts, used to train a vocabulary.

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
        return sum(len(text.encode()) for text in self.documents(split))

    def fingerprint(self) -> str:
        return sha256_of_texts([self.source.fingerprint(), *self.sides])

    def describe(self) -> dict[str, Any]:
        return self.source.describe()


class SplitByText:
    """Assigns pairs to splits by a hash of the source sentence: a sentence is never in two splits.

    Args:
        shares: split -> its share in per cent; the rest is `train`.
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
    """Returns a sha256 over texts, each terminated by a zero byte."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()
