"""One half of a validation split: options are chosen on one half and evaluated on the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from attnkit.data.sources.base import Part, Piece, Source, TextSource, TokenSource

T = TypeVar("T")


class HalfOfText(TextSource):
    """The first or the second half of each split of another source, by characters.

    The cut is moved to the next line end within the piece of text, if there is one. Alternating
    windows would not be independent, since neighbours are too similar.

    Args:
        whole: the source.
        part: `first_half` or `second_half`.
    """

    def __init__(self, whole: TextSource, part: Part) -> None:
        self.whole = whole
        self.part = part
        self.splits = whole.splits

    def pieces(self, split: str) -> Iterator[Piece]:
        total = sum(len(piece.text) for piece in self.whole.pieces(split))
        seen = 0
        for piece in self.whole.pieces(split):
            cut = min(max(total // 2 - seen, 0), len(piece.text))
            if 0 < cut < len(piece.text):
                cut = piece.text.find("\n", cut) + 1 or cut
            seen += len(piece.text)
            first, second = piece.text[:cut], piece.text[cut:]
            if self.part == "second_half" and second:
                yield Piece(second, piece.ends_document)
            if self.part == "first_half" and first:
                yield Piece(first, piece.ends_document and not second)

    def documents(self, split: str) -> Iterator[str]:
        """Yields the documents of this half; a document at the boundary is cut in two."""
        document = ""
        for piece in self.pieces(split):
            document += piece.text
            if piece.ends_document:
                yield document
                document = ""
        if document:
            yield document

    def num_bytes(self, split: str) -> int:
        return self.whole.num_bytes(split) // 2

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.whole.fingerprint()} {self.part}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {**self.whole.describe(), "part": self.part}


def part_of(source: Source, part: Part) -> Source:
    """Returns the requested half of a source; for `all`, the source itself."""
    if part == "all":
        return source
    if isinstance(source, TokenSource):
        return source.half(part)
    assert isinstance(source, TextSource)
    return HalfOfText(source, part)


def half_of(items: Sequence[T], part: Part) -> Sequence[T]:
    """Returns every other item, starting with the first or the second; for `all`, every item.

    For items that are independent of their neighbours but may be sorted.
    """
    starts = {"all": slice(None), "first_half": slice(0, None, 2), "second_half": slice(1, None, 2)}
    return items[starts[part]]
