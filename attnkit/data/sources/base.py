"""The contract of sources of text or tokens."""

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
    """A part of a document: its text, and True if it ends the document."""

    text: str
    ends_document: bool


class Source(ABC):
    """Data for language modeling in named splits, in a fixed order.

    A subclass takes its options as keyword-only parameters, and reads no data in `__init__`: a
    recipe is checked completely before anything is read.
    """

    splits: tuple[str, ...] = ("train", "val")
    """Names of the splits, including `train` and `val`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a sha256 over all that the splits depend on; it identifies prepared data.

        It covers the content and the relevant options, but not the place of the files.

        Raises:
            DataError: if the data is missing or damaged.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns the entry for the record of a run, in plain types.

        The keys are source, licence, bytes and sha256, and whatever else identifies the data.
        """

    def check_split(self, split: str) -> None:
        """Raises a DataError if `split` is not one of `splits`."""
        if split not in self.splits:
            raise DataError(f"there is no split `{split}` (there are: {', '.join(self.splits)})")


class TokenSource(Source):
    """Data that is already tokenised, with an existing vocabulary."""

    @abstractmethod
    def half(self, part: Part) -> TokenSource:
        """Returns the same source with one half of each split; `all`: both."""

    @abstractmethod
    def store(self, split: str, tokenizer: Tokenizer) -> TokenStore:
        """Opens the tokens of a split.

        Args:
            split: its name.
            tokenizer: tokenizer of the vocabulary that the token ids refer to.

        Raises:
            DataError: if the data is missing or damaged, or does not fit the vocabulary.
        """


class TextSource(Source):
    """Text for language modeling: documents in each split."""

    @abstractmethod
    def documents(self, split: str) -> Iterator[str]:
        """Yields the documents of a split, each as one text.

        Raises:
            DataError: if the data is missing or damaged, or the split does not exist.
        """

    @abstractmethod
    def num_bytes(self, split: str) -> int:
        """Returns the approximate size of a split in bytes of UTF-8; it scales a progress bar."""

    def pieces(self, split: str) -> Iterator[Piece]:
        """Yields the documents of a split in pieces.

        Override it if a document may be larger than memory.
        """
        for document in self.documents(split):
            yield Piece(document, ends_document=True)
