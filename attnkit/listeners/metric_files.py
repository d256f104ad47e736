"""Scalars in plain files, `metrics.jsonl` and `metrics.csv`, for pandas and `attnkit compare`."""

from __future__ import annotations

import csv
import io
import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from attnkit.listeners.listener import Listener
from attnkit.tensorboard.event_files import METRICS_CSV, METRICS_JSONL


class MetricFile(Listener):
    """A file to which lines are appended without a buffer.

    Args:
        directory: folder of the file.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / self.files[0]
        _drop_unfinished_line(path)
        # Without a buffer, which every later call would write again after a full disk.
        self._file = path.open("ab", buffering=0)
        if not path.stat().st_size and self.header:
            try:
                self._append(self.header)
            except OSError:
                self._file.close()
                raise

    header = ""
    """The first line."""

    @abstractmethod
    def lines(self, values: Mapping[str, float], step: int) -> str:
        """The lines of one call, each with its line break."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._append(self.lines({name: float(x) for name, x in values.items()}, step))

    def finish(self, status: str | None) -> None:
        self._file.close()

    def _append(self, text: str) -> None:
        rest = memoryview(text.encode())
        while rest:
            rest = rest[self._file.write(rest) :]


class JsonLines(MetricFile):
    """One line per call, `{"step": 10, "loss/train": 2.5}`; a value that is not finite is null."""

    files = (METRICS_JSONL,)

    def lines(self, values: Mapping[str, float], step: int) -> str:
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        return json.dumps({"step": step, **finite}) + "\n"


class TidyCsv(MetricFile):
    """One line per value, `step,name,value`: a scalar may first appear at any step."""

    files = (METRICS_CSV,)
    header = "step,name,value\n"

    def lines(self, values: Mapping[str, float], step: int) -> str:
        text = io.StringIO()
        rows = ([step, name, repr(x)] for name, x in values.items())
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()


def _drop_unfinished_line(path: Path) -> None:
    """Removes an incomplete last line, left by a killed process or a full disk."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
