"""WikiText: selected articles of the English Wikipedia (Merity et al. 2016, https://arxiv.org/abs/1609.07843)."""

from __future__ import annotations

import hashlib
import importlib
import io
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from attnkit.data.lookup import DATA_VARIABLE, download, find_local, sha256_of
from attnkit.data.sources.base import TextSource
from attnkit.data.text_files import read_pieces
from attnkit.errors import DataError
from attnkit.registry import SOURCES
from attnkit.storage.files import atomic_write, cache_folder, locked

Version = Literal["wikitext-2-raw-v1", "wikitext-103-raw-v1"]

REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
URL = f"https://huggingface.co/datasets/Salesforce/wikitext/resolve/{REVISION}"

VALIDATION = (
    "validation-00000-of-00001.parquet",
    "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c",
)
TEST = (
    "test-00000-of-00001.parquet",
    "5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91",
)
TRAIN: dict[str, list[tuple[str, str]]] = {
    "wikitext-2-raw-v1": [
        (
            "train-00000-of-00001.parquet",
            "e83889baabc497075506f91975be5fac0d45c5290b6b20582c8cd1e853d0c9f7",
        )
    ],
    "wikitext-103-raw-v1": [
        (
            "train-00000-of-00002.parquet",
            "74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212",
        ),
        (
            "train-00001-of-00002.parquet",
            "ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720",
        ),
    ],
}

LOCAL_NAMES = {
    "train": ("wiki.train.raw", "train.txt"),
    "val": ("wiki.valid.raw", "valid.txt", "validation.txt", "val.txt"),
    "test": ("wiki.test.raw", "test.txt"),
}

TITLE = re.compile(r" = [^=\s](?:[^=]*[^=\s])? = \n")
"""The title line of an article; headings inside an article have at least two equals signs."""


@SOURCES.register("wikitext")
class WikiText(TextSource):
    """WikiText-2 or WikiText-103, raw: articles of the English Wikipedia, one per document.

    Looks for plain text in the folder named after the version (`wikitext-2-raw-v1/wiki.train.raw`
    or `train.txt`; likewise `wiki.valid.raw` and `wiki.test.raw`) in `root`, then in
    `$ATTNKIT_DATA`. Otherwise downloads the hub repository Salesforce/wikitext at a fixed revision,
    checks its sha256, and converts it to the same plain text; that needs pyarrow
    (`pip install 'attnkit[wikitext]'`). Local files are not checked: compare the sha256 in the
    records of two runs.

    Args:
        version: `wikitext-2-raw-v1` (11 MB of training text) or `wikitext-103-raw-v1` (540 MB).
            Both have the same validation and test text.
        root: folder to look in first.
    """

    splits = ("train", "val", "test")

    def __init__(self, *, version: Version = "wikitext-2-raw-v1", root: Path | None = None) -> None:
        if version not in TRAIN:
            raise DataError(f"data.version must be one of {', '.join(TRAIN)}, got {version!r}")
        self.version = version
        self.root = root

    def documents(self, split: str) -> Iterator[str]:
        """Yields the articles of a split, title line first."""
        self.check_split(split)
        article: list[str] = []
        for text in read_pieces(self._paths[split]):
            for line in io.StringIO(text, newline="\n"):
                if TITLE.fullmatch(line) and "".join(article).strip():
                    yield "".join(article)
                    article = []
                article.append(line)
        yield "".join(article)

    def num_bytes(self, split: str) -> int:
        return self._paths[split].stat().st_size

    def fingerprint(self) -> str:
        return hashlib.sha256(" ".join(self._hashes.values()).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "source": f"{self.version} (Salesforce/wikitext)",
            "licence": "CC-BY-SA-3.0 and GFDL",
            "version": self.version,
            "bytes": sum(self.num_bytes(split) for split in self.splits),
            "files": {
                split: {"path": str(self._paths[split]), "sha256": self._hashes[split]}
                for split in self.splits
            },
            "sha256": self.fingerprint(),
        }

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {split: sha256_of(self._paths[split]) for split in self.splits}

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {split: self._path(split) for split in self.splits}

    def _path(self, split: str) -> Path:
        names = [f"{self.version}/{name}" for name in LOCAL_NAMES[split]]
        path = find_local(self.root, names) or self._downloaded(split, place_at=names[0])
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; replace it, or delete it to download the text")
        return path

    def _downloaded(self, split: str, place_at: str) -> Path:
        path = cache_folder("wikitext", self.version) / f"{split}.txt"
        with locked(path):
            if not path.is_file():
                parquet = _parquet_module(place_at)
                with atomic_write(path) as file:
                    for name, sha256 in self._published(split):
                        part = download(
                            f"{URL}/{self.version}/{name}",
                            sha256,
                            f"{self.version}-{name}",
                            place_at=f"{place_at} (as plain text)",
                        )
                        for batch in parquet.ParquetFile(part).iter_batches(columns=["text"]):
                            file.writelines(map(_line, batch.column(0).to_pylist()))
        return path

    def _published(self, split: str) -> list[tuple[str, str]]:
        return {"train": TRAIN[self.version], "val": [VALIDATION], "test": [TEST]}[split]


def _parquet_module(place_at: str) -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            "downloading WikiText needs pyarrow: pip install 'attnkit[wikitext]'; or put the plain "
            f"text at {place_at} below a folder of yours, and name that folder in data.root or "
            f"${DATA_VARIABLE}"
        ) from error


def _line(row: str) -> bytes:
    """Returns a row as in the original files, where a blank line consists of one space."""
    return (row or " \n").encode()
