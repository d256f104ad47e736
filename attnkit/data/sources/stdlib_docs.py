"""Docstrings of the running Python's standard library: real text that needs no download."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from attnkit.data.sources.base import TextSource
from attnkit.errors import DataError
from attnkit.registry import SOURCES
from attnkit.storage.files import atomic_write, cache_folder, locked, parse_json

MIN_CHARACTERS = 80
"""Docstrings up to this length are left out: most only repeat the name of their object."""

VAL_SHARE = 10
"""One in this many docstrings is validation text."""

SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages"}

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@SOURCES.register("stdlib_docs")
class StdlibDocs(TextSource):
    """Docstrings of the running Python's standard library: about 1.5 MB of English, no download.

    A document is one docstring of more than 80 characters, without repetitions. About one in ten is
    validation text, chosen by a hash of the docstring, so that it stays in its split when others
    change. The text depends on the version of Python: compare runs only if their records have the
    same `sha256`. The extraction takes about three seconds, once; the result is cached.
    """

    def documents(self, split: str) -> Iterator[str]:
        """Yields the docstrings of a split, ordered by file and by position in it."""
        self.check_split(split)
        yield from self._by_split[split]

    def num_bytes(self, split: str) -> int:
        return sum(len(text.encode()) for text in self._by_split[split])

    def fingerprint(self) -> str:
        return _digest(self._docstrings)

    def describe(self) -> dict[str, Any]:
        return {
            "source": "docstrings of the Python standard library",
            "licence": "PSF-2.0",
            "python": sys.version.split()[0],
            "documents": len(self._docstrings),
            "bytes": sum(self.num_bytes(split) for split in self.splits),
            "sha256": self.fingerprint(),
        }

    @cached_property
    def _docstrings(self) -> list[str]:
        folder = Path(sysconfig.get_path("stdlib"))
        files = _source_files(folder)
        path = cache_folder("stdlib_docs") / f"{_key(folder, files)}.json"
        with locked(path):
            if not path.is_file():
                _write(path, _extract(files))
            return _read(path)

    @cached_property
    def _by_split(self) -> dict[str, list[str]]:
        by_split: dict[str, list[str]] = {split: [] for split in self.splits}
        for text in self._docstrings:
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            by_split["val" if number % VAL_SHARE == 0 else "train"].append(text)
        return by_split


def _source_files(folder: Path) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder):
        # Pruned in place: site-packages may be a hundred times as large as the library itself.
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        files += [Path(parent, name) for name in names if name.endswith(".py")]
    return sorted(files)


def _key(folder: Path, files: list[Path]) -> str:
    """Identifies the library: a release changes the version, a patch usually some file's size."""
    sizes = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]
    return hashlib.sha256(repr((sys.version, sizes)).encode()).hexdigest()[:32]


def _extract(files: list[Path]) -> list[str]:
    # A dictionary keeps the order of first appearance and drops repetitions.
    found: dict[str, None] = {}
    with warnings.catch_warnings():
        # The library's own invalid escape sequences do not concern the user.
        warnings.simplefilter("ignore")
        for path in files:
            for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
                text = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
                if text is not None and len(text) > MIN_CHARACTERS:
                    found[text] = None
    if not found:
        raise DataError(
            "the standard library of this Python has no source files, so the data source "
            "`stdlib_docs` finds no text; use `data: {name: text, files: ...}`"
        )
    return list(found)


def _digest(documents: list[str]) -> str:
    return hashlib.sha256("\0".join(documents).encode()).hexdigest()


def _write(path: Path, documents: list[str]) -> None:
    content = {"sha256": _digest(documents), "documents": documents}
    with atomic_write(path) as file:
        file.write(json.dumps(content).encode())


def _read(path: Path) -> list[str]:
    try:
        content = parse_json(path.read_bytes())
        documents: list[str] = content["documents"]
        if _digest(documents) == content["sha256"]:
            return documents
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged; delete it to create it again") from error
    raise DataError(f"{path} is damaged (its sha256 differs); delete it to create it again")
