"""Files that callbacks write to the directories of runs: the head clinic, and contributions."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboard import errors

from attnkit.pages.log_folders import directories_of
from attnkit.tensorboard.clinic_history import HeadName, formed, read_history, word_of
from attnkit.tensorboard.untrusted import MapFormatError

Stamp = tuple[str, int, int]


class RunFiles:
    """A file of a fixed name in the directories of the runs in TensorBoard, which grows while they
    train. Reads each file once per change. Thread-safe.

    Args:
        roots: the log directories -> the names of their groups, see `log_folders`.
        name: of the file.
        read: reads and checks a file; the content has `steps`. Raises OSError or MapFormatError.
    """

    def __init__(
        self, roots: Mapping[Path, str], name: str, read: Callable[[Path], dict[str, Any]]
    ) -> None:
        self._roots = roots
        self._name = name
        self._from_file = read
        self._read: dict[str, tuple[Stamp, dict[str, Any] | MapFormatError]] = {}
        self._lock = threading.Lock()

    def index(self, runs: list[str]) -> dict[str, dict[str, Any]]:
        """Returns run -> `steps` and `written`, which changes with the file, for runs that have a
        file. A damaged file has no steps.
        """
        found = {}
        for run in runs:
            stamp = self._stamp(run)
            if stamp is None:
                continue
            content = self._content(run, stamp)
            steps = [] if isinstance(content, MapFormatError) else content["steps"]
            found[run] = {"steps": steps, "written": stamp[1]}
        return found

    def of(self, run: str) -> dict[str, Any]:
        """Returns the content of the file of a run.

        Raises:
            errors.NotFoundError: if the run has no file.
            MapFormatError: if its file is damaged.
        """
        stamp = self._stamp(run)
        if stamp is None:
            raise errors.NotFoundError(f"run {run!r} has no {self._name}")
        content = self._content(run, stamp)
        if isinstance(content, MapFormatError):
            raise content
        return content

    def _stamp(self, run: str) -> Stamp | None:
        for directory in directories_of(run, self._roots):
            try:
                status = os.stat(directory / self._name)
            except (OSError, ValueError):
                continue
            return str(directory / self._name), status.st_mtime_ns, status.st_size
        return None

    def _content(self, run: str, stamp: Stamp) -> dict[str, Any] | MapFormatError:
        with self._lock:
            known = self._read.get(run)
            if known is not None and known[0] == stamp:
                return known[1]
            try:
                content: dict[str, Any] | MapFormatError = self._from_file(Path(stamp[0]))
            except OSError as error:
                return MapFormatError(f"{self._name} cannot be read: {error.strerror}")
            except MapFormatError as error:
                content = error
            self._read[run] = stamp, content
            return content


def clinic_of(file: Path) -> dict[str, Any]:
    """Reads a `clinic.json`, arranged for the page: `steps`; `heads`, a list of `site`, `layer`,
    `head`, `scores` (name -> a number per step) and `words` (one per step); and `formed`, a list of
    `score`, `head`, `step` and `text`.

    Raises:
        OSError: if it cannot be read.
        MapFormatError: if it is damaged.
    """
    history = read_history(file)
    count = len(history["steps"])
    heads = []
    for name, scores in history["heads"].items():
        moments = [
            {score: values[i] for score, values in scores.items() if values[i] is not None}
            for i in range(count)
        ]
        rounded = {
            score: [value if value is None else float(f"{value:.5g}") for value in values]
            for score, values in scores.items()
        }
        place = HeadName.read(name)._asdict()
        heads.append({**place, "scores": rounded, "words": [word_of(one) for one in moments]})
    marks = [
        {"score": one.score, "head": one.head, "step": one.step, "text": str(one)}
        for one in formed(history)
    ]
    return {"steps": history["steps"], "heads": heads, "formed": marks}
