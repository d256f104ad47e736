"""A folder of your own recordings, with a table of transcripts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from attnkit.data.line_files import read_lines
from attnkit.data.pairs.base import Pair, SplitByText, sha256_of_texts
from attnkit.data.sound.wav import read_wav
from attnkit.data.speech.base import SpeechSource, Utterance
from attnkit.errors import DataError
from attnkit.registry import SPEECH

log = logging.getLogger("attnkit")

MOST_NAMED = 5
"""Maximum number of broken files that a message lists."""


@SPEECH.register("recordings")
class Recordings(SpeechSource):
    """WAV files and a table of transcripts: lines of file, tab, text.

    Other rates are resampled and channels averaged; one message says so. A hash of the text decides
    the split of an utterance, so that no tested sentence is trained on.

    Args:
        folder: folder of the WAV files, relative to the recipe or the working directory.
        table: the table, in UTF-8; null: `transcripts.tsv` in the folder.
        val_percent: per cent of the texts for validation.
        test_percent: per cent of the texts for the test.
    """

    def __init__(
        self,
        *,
        folder: Path,
        table: Path | None = None,
        val_percent: int = 10,
        test_percent: int = 10,
    ) -> None:
        for name, percent in (("val_percent", val_percent), ("test_percent", test_percent)):
            if not 1 <= percent <= 40:
                raise DataError(f"data.{name} must be from 1 to 40, got {percent}")
        self.folder = folder
        self.table = table
        self.split_of = SplitByText({"val": val_percent, "test": test_percent})

    @property
    def test_splits(self) -> tuple[str, ...]:
        return ("test",)

    @cached_property
    def _rows(self) -> list[Pair]:
        """The file, as in the table, and the text of each line."""
        table = Path(self.folder, "transcripts.tsv") if self.table is None else self.table
        table = Path(table).expanduser()
        rows = []
        for number, line in enumerate(read_lines(table), start=1):
            name, tab, text = line.partition("\t")
            if not tab or not name.strip() or not text.strip():
                raise DataError(f"{table}:{number}: expected a file, a tab, and its transcript")
            rows.append(Pair(name.strip(), " ".join(text.split())))
        if not rows:
            raise DataError(f"{table} is empty")
        return rows

    def pairs(self, split: str) -> Iterator[Pair]:
        self.check_split(split)
        found = [row for row in self._rows if self.split_of(row.target) == split]
        if not found:
            raise DataError(
                f"data.recordings: the {split} split is empty, since a hash of each text decides "
                f"its split; use more than {len(self._rows)} recordings, or raise the percentages"
            )
        yield from found

    def _path(self, pair: Pair) -> Path:
        return Path(self.folder).expanduser() / pair.source

    def utterance(self, pair: Pair) -> Utterance:
        return Utterance(*pair[:2], read_wav(self._path(pair)).samples)

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yields the recordings of a split.

        Raises:
            DataError: if files are missing or broken; names them, before it yields any.
        """
        pairs, broken, read, changed = list(self.pairs(split)), [], [], []
        for pair in pairs:
            try:
                recording = read_wav(self._path(pair))
            except DataError as error:
                broken.append(str(error))
                continue
            read.append(Utterance(*pair[:2], recording.samples))
            if recording.changes:
                changed.append(f"{pair.source}: {', '.join(recording.changes)}")
        if broken:
            more = f" (and {len(broken) - MOST_NAMED} more)" if len(broken) > MOST_NAMED else ""
            raise DataError("\n".join(broken[:MOST_NAMED]) + more)
        if changed:
            log.warning(
                "%s: %d of %d recordings changed; %s", split, len(changed), len(pairs), changed[0]
            )
        yield from read

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digests = []
        for pair in self._rows:
            path = self._path(pair)
            if not path.is_file():
                raise DataError(f"{path} does not exist (seen from {Path.cwd()})")
            digests += [hashlib.sha256(path.read_bytes()).hexdigest(), pair.target]
        return sha256_of_texts([str(self.split_of.shares), *digests])

    def describe(self) -> dict[str, Any]:
        splits = ("train", "val", "test")
        return {
            "source": str(self.folder),
            "licence": "the user's own",
            "pairs": {split: sum(1 for _ in self.pairs(split)) for split in splits},
            "sha256": self.fingerprint(),
        }
