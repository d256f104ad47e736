"""The user's own translations in two files: line n of one translates line n of the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from attnkit.data.line_files import read_aligned
from attnkit.data.lookup import sha256_of
from attnkit.data.pairs.base import Pair, PairSource, sha256_of_texts
from attnkit.errors import DataError
from attnkit.registry import PAIRS


@PAIRS.register("parallel_files")
class ParallelFiles(PairSource):
    """Your own line-aligned UTF-8 files, plain or gzipped.

    Args:
        train: the two training files, source first, relative to the recipe or the working
            directory.
        val: the two validation files.
        test: the two test files; null: no test set.
        source_language: name of the source language.
        target_language: name of the target language.
    """

    def __init__(
        self,
        *,
        train: tuple[Path, Path],
        val: tuple[Path, Path],
        test: tuple[Path, Path] | None = None,
        source_language: str = "source",
        target_language: str = "target",
    ) -> None:
        self.files = {"train": train, "val": val} | ({"test": test} if test else {})
        for split, (source, target) in self.files.items():
            if source == target:
                raise DataError(f"data.{split} names {source} twice; name source and target")
        self.source_language = source_language
        self.target_language = target_language

    @property
    def test_splits(self) -> tuple[str, ...]:
        return ("test",) if "test" in self.files else ()

    def pairs(self, split: str) -> Iterator[Pair]:
        self.check_split(split)
        for source, target in self._lines[split]:
            yield Pair(source, target)

    @cached_property
    def _lines(self) -> dict[str, list[tuple[str, str]]]:
        return {split: read_aligned(*paths) for split, paths in self._paths.items()}

    @property
    def _paths(self) -> dict[str, tuple[Path, Path]]:
        return {
            split: (Path(source).expanduser(), Path(target).expanduser())
            for split, (source, target) in self.files.items()
        }

    def fingerprint(self) -> str:
        self._lines  # noqa: B018 - reports missing or misaligned files
        return sha256_of_texts(sha256_of(path) for paths in self._paths.values() for path in paths)

    def describe(self) -> dict[str, Any]:
        files = {
            split: [{"path": str(path), "sha256": sha256_of(path)} for path in paths]
            for split, paths in self._paths.items()
        }
        return {
            "source": "own parallel files",
            "licence": "the user's own",
            "pairs": {split: len(lines) for split, lines in self._lines.items()},
            "files": files,
            "sha256": self.fingerprint(),
        }
