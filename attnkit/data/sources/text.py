"""The user's own text files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from attnkit.data.lookup import files_of, sha256_of
from attnkit.data.sources.base import Piece, TextSource
from attnkit.data.text_files import next_break, read_pieces
from attnkit.errors import DataError
from attnkit.registry import SOURCES


class Span(NamedTuple):
    """The bytes `start` to `stop` of a file."""

    path: Path
    start: int
    stop: int


@SOURCES.register("text")
class TextFiles(TextSource):
    """Your own UTF-8 text files, of any size; each file is a document.

    Files are read in pieces, so that one may be larger than memory. Without `val_files`, the
    validation text is the end of each file, from the first line that begins in its last tenth
    (`val_fraction`); a file without line breaks is cut between two characters.

    Args:
        files: a path or pattern (`corpus/**/*.txt`) or a list of them, relative to the recipe or
            the working directory. The files of a pattern are sorted by name.
        val_fraction: share of each file's bytes that is validation text, between 0 and 1. Not used
            with `val_files`.
        val_files: paths or patterns of separate validation files; then all of `files` is training
            text.
    """

    def __init__(
        self,
        *,
        files: Path | list[Path],
        val_fraction: float = 0.1,
        val_files: Path | list[Path] | None = None,
    ) -> None:
        if not 0.0 < val_fraction < 1.0:
            raise DataError(f"data.val_fraction must be between 0 and 1, got {val_fraction}")
        self.files = files
        self.val_fraction = val_fraction
        self.val_files = val_files

    def documents(self, split: str) -> Iterator[str]:
        """Yields each file's part in the split as one text; for large files, use `pieces`."""
        self.check_split(split)
        for span in self._spans[split]:
            yield "".join(read_pieces(*span))

    def pieces(self, split: str) -> Iterator[Piece]:
        """Yields each file's part in the split in pieces of about 256 KiB."""
        self.check_split(split)
        for span in self._spans[split]:
            previous = None
            for text in read_pieces(*span):
                if previous is not None:
                    yield Piece(previous, ends_document=False)
                previous = text
            if previous is not None:
                yield Piece(previous, ends_document=True)

    def num_bytes(self, split: str) -> int:
        return sum(span.stop - span.start for span in self._spans[split])

    def fingerprint(self) -> str:
        spans = {
            split: [(self._hashes[span.path], span.start, span.stop) for span in self._spans[split]]
            for split in self.splits
        }
        return hashlib.sha256(json.dumps(spans, sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        files = [
            {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}
            for path, digest in self._hashes.items()
        ]
        return {
            "source": "own text files",
            "licence": "the user's own",
            "files": files,
            "bytes": sum(self.num_bytes(split) for split in self.splits),
            "sha256": self.fingerprint(),
        }

    @cached_property
    def _hashes(self) -> dict[Path, str]:
        paths = dict.fromkeys(span.path for split in self.splits for span in self._spans[split])
        return {path: sha256_of(path) for path in paths}

    @cached_property
    def _spans(self) -> dict[str, list[Span]]:
        files = files_of(self.files, "data.files")
        if self.val_files is None:
            cuts = {path: self._cut(path) for path in files}
            return {
                "train": [Span(path, 0, cut) for path, cut in cuts.items()],
                "val": [Span(path, cut, path.stat().st_size) for path, cut in cuts.items()],
            }
        val_files = files_of(self.val_files, "data.val_files")
        for path in val_files:
            if path in files:
                raise DataError(
                    f"{path} is in both data.files and data.val_files; remove it from one"
                )
        return {
            "train": [Span(path, 0, path.stat().st_size) for path in files],
            "val": [Span(path, 0, path.stat().st_size) for path in val_files],
        }

    def _cut(self, path: Path) -> int:
        return next_break(path, int(path.stat().st_size * (1.0 - self.val_fraction)))


class OneFile(TextFiles):
    """One text file as the only split, `text`.

    Args:
        path: the file.
    """

    splits = ("text",)

    def __init__(self, path: Path) -> None:
        super().__init__(files=path)
        self.path = path

    @cached_property
    def _spans(self) -> dict[str, list[Span]]:
        return {
            "text": [Span(path, 0, path.stat().st_size) for path in files_of(self.path, "--data")]
        }
