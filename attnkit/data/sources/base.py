"""What a source of text is: the contract between the sources and everything behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from attnkit.data.errors import DataError


class Piece(NamedTuple):
    """A stretch of a document: its text, and whether the document ends with it."""

    text: str
    ends_document: bool


class TextSource(ABC):
    """Text for language modeling: documents in named splits, in an order that never changes.

    A subclass takes its options as keyword-only parameters, and touches no data in `__init__`: a
    recipe is checked as a whole before anything is read.
    """

    splits: tuple[str, ...] = ("train", "val")
    """The splits that `documents` knows; `train` and `val` are always among them."""

    @abstractmethod
    def documents(self, split: str) -> Iterator[str]:
        """Yields the documents of a split, each as one text.

        Raises:
            DataError: if the data is missing or damaged, or there is no such split.
        """

    @abstractmethod
    def num_bytes(self, split: str) -> int:
        """Returns the size of a split in bytes of UTF-8, roughly: it scales a progress bar."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a sha256 over all that `documents` depends on; prepared data is found by it.

        That is the content and the options that matter, but not where the files lie.

        Raises:
            DataError: as `documents`.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what goes into the record of a run, in plain types.

        The keys are source, licence, bytes and sha256, and whatever else pins the data down.
        """

    def pieces(self, split: str) -> Iterator[Piece]:
        """Yields the documents of a split in pieces.

        Override it where a document may be larger than memory.
        """
        for document in self.documents(split):
            yield Piece(document, ends_document=True)

    def check_split(self, split: str) -> None:
        """Raises a DataError unless `split` is one of `splits`."""
        if split not in self.splits:
            raise DataError(f"there is no split `{split}` (there are: {', '.join(self.splits)})")
