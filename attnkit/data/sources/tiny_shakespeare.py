"""Tiny Shakespeare: 1.1 million characters of plays, the usual data of character models."""

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
"""Share of the characters, from the front, that is training text, as in nanoGPT."""


@SOURCES.register("tiny_shakespeare")
class TinyShakespeare(TextSource):
    """Tiny Shakespeare: 1,115,394 characters, 65 distinct, one document per split, as in nanoGPT.

    Looks for `tinyshakespeare/input.txt` and `input.txt` in `root`, then in `$ATTNKIT_DATA`;
    otherwise downloads the file to the cache. Checks its sha256 in any case.

    Args:
        root: folder to look in first.
    """

    def __init__(self, *, root: Path | None = None) -> None:
        self.root = root

    def documents(self, split: str) -> Iterator[str]:
        self.check_split(split)
        cut = int(len(self._text) * TRAIN_SHARE)
        yield self._text[:cut] if split == "train" else self._text[cut:]

    def num_bytes(self, split: str) -> int:
        return sum(len(document) for document in self.documents(split))

    def fingerprint(self) -> str:
        return sha256_of(self._path)

    def describe(self) -> dict[str, Any]:
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
                f"{SHA256}; replace it by {URL}, or, if it is your own text, write "
                f"`data: {{name: text, files: {path}}}`"
            )
        return path
