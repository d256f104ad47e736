"""Tiny Shakespeare: 1.1 million characters of plays, the usual first text of a character model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from attnkit.data.lookup import download, find_local, sha256_of
from attnkit.data.sources.base import TextSource
from attnkit.errors import DataError
from attnkit.registry import SOURCES

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PLACE = "tinyshakespeare/input.txt"

TRAIN_SHARE = 0.9
"""Share of the characters, from the front, that is training text; as nanoGPT splits it."""


@SOURCES.register("tiny_shakespeare")
class TinyShakespeare(TextSource):
    """Tiny Shakespeare: 1,115,394 characters, 65 distinct, one document a split, as in nanoGPT.

    The file is looked up as `tinyshakespeare/input.txt` and as `input.txt` in `root`, then in
    `$ATTNKIT_DATA`, and else downloaded into the cache. Its sha256 is checked wherever it comes
    from.

    Args:
        root: folder to look in first.
    """

    def __init__(self, *, root: Path | None = None) -> None:
        self.root = root

    def documents(self, split: str) -> Iterator[str]:
        """Yields the one document of a split."""
        self.check_split(split)
        cut = int(len(self._text) * TRAIN_SHARE)
        yield self._text[:cut] if split == "train" else self._text[cut:]

    def num_bytes(self, split: str) -> int:
        """Returns the size of a split in bytes; every character is one."""
        return sum(len(document) for document in self.documents(split))

    def fingerprint(self) -> str:
        """Returns the sha256 of the file, which has been checked."""
        return sha256_of(self._path)

    def describe(self) -> dict[str, Any]:
        """Returns where the text is from, its licence, size and sha256."""
        return {
            "source": "tiny Shakespeare (karpathy/char-rnn)",
            "licence": "public domain",
            "url": URL,
            "bytes": len(self._text),
            "sha256": self.fingerprint(),
        }

    @cached_property
    def _text(self) -> str:
        return self._path.read_bytes().decode("utf-8")

    @cached_property
    def _path(self) -> Path:
        path = find_local(self.root, (PLACE, "input.txt"))
        if path is None:
            return download(URL, SHA256, "tinyshakespeare.txt", place_at=PLACE)
        found = sha256_of(path)
        if found != SHA256:
            raise DataError(
                f"{path} is not tiny Shakespeare, or damaged: its sha256 is {found}, expected "
                f"{SHA256}; replace it by {URL}, or, if it is a text of your own, write "
                f"`data: {{name: text, files: {path}}}`"
            )
        return path
