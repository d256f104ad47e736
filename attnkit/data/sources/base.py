"""What a source is, of text or of tokens: the contract between them and all that is behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from attnkit.errors import DataError

if TYPE_CHECKING:
    from attnkit.data.token_store import TokenStore
    from attnkit.data.tokenizer_base import Tokenizer

Part = Literal["all", "first_half", "second_half"]


class Piece(NamedTuple):
    """A stretch of a document: its text, and whether the document ends with it."""

    text: str
    ends_document: bool


class Source(ABC):
    """Data for language modeling in named splits, in an order that never changes.

    A subclass takes its options as keyword-only parameters, and touches no data in `__init__`: a
    recipe is checked as a whole before anything is read.
    """

    splits: tuple[str, ...] = ("train", "val")
    """The splits that there are; `train` and `val` are always among them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a sha256 over all that the splits depend on; prepared data is found by it.

        That is the content and the options that matter, but not where the files lie.

        Raises:
            DataError: if the data is missing or damaged.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what goes into the record of a run, in plain types.

        The keys are source, licence, bytes and sha256, and whatever else pins the data down.
        """

    def check_split(self, split: str) -> None:
        """Raises a DataError unless `split` is one of `splits`."""
        if split not in self.splits:
            raise DataError(f"there is no split `{split}` (there are: {', '.join(self.splits)})")


class TokenSource(Source):
    """Data that is tokens already, by a vocabulary that somebody else made."""

    @abstractmethod
    def half(self, part: Part) -> TokenSource:
        """Returns the same source with a half of each split; `all`: both."""

    @abstractmethod
    def store(self, split: str, tokenizer: Tokenizer) -> TokenStore:
        """Opens the tokens of a split.

        Args:
            split: its name.
            tokenizer: of the vocabulary that the tokens are numbers of.

        Raises:
            DataError: if the data is missing or damaged, or does not fit the vocabulary.
        """


class TextSource(Source):
    """Text for language modeling: documents in each split."""

    @abstractmethod
    def documents(self, split: str) -> Iterator[str]:
        """Yields the documents of a split, each as one text.

        Raises:
            DataError: if the data is missing or damaged, or there is no such split.
        """

    @abstractmethod
    def num_bytes(self, split: str) -> int:
        """Returns the size of a split in bytes of UTF-8, roughly: it scales a progress bar."""

    def pieces(self, split: str) -> Iterator[Piece]:
        """Yields the documents of a split in pieces.

        Override it where a document may be larger than memory.
        """
        for document in self.documents(split):
            yield Piece(document, ends_document=True)
