"""The files that grow while a run is logged: finding them, measuring them, and cutting them back
when the run resumes.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

EVENT_FILES = "events.out.tfevents.*"
METRICS_CSV = "metrics.csv"
METRICS_JSONL = "metrics.jsonl"

LOGGED_FILES = (EVENT_FILES, METRICS_CSV, METRICS_JSONL)
"""Patterns of the files that attnkit's own loggers write into a run's directory."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run resumes, for what it logs.

    Attributes:
        step: the last step that is done and logged; 0 if nothing is.
        event_bytes: logged file -> how much of it was written when that step was saved.
    """

    step: int = 0
    event_bytes: Mapping[str, int] = field(default_factory=dict)


def event_files(directory: Path) -> list[Path]:
    """Returns the event files that lie directly in a directory, oldest first."""
    return logged_files(directory, [EVENT_FILES])


def logged_files(directory: Path, patterns: Iterable[str] = LOGGED_FILES) -> list[Path]:
    """Returns the files directly in a directory that match one of some patterns, by name."""
    kept = tuple(patterns)
    try:
        with os.scandir(directory) as entries:
            names = [
                entry.name
                for entry in entries
                if any(fnmatch.fnmatchcase(entry.name, each) for each in kept) and entry.is_file()
            ]
    except OSError:
        return []
    return [directory / name for name in sorted(names)]


def logged_bytes(directory: Path, patterns: Iterable[str] = LOGGED_FILES) -> dict[str, int]:
    """Returns file -> its length now: what a `ResumePoint` wants."""
    return {file.name: file.stat().st_size for file in logged_files(directory, patterns)}


def cut_back(directory: Path, point: ResumePoint, patterns: Iterable[str] = LOGGED_FILES) -> None:
    """Removes from the logged files what a run that resumes will write again.

    Lengths decide, not steps: what a stopped run logs of its last step, after it was saved (a last
    validation, how it ended), has the very number of the step that was saved. A record that a
    killed process left unfinished goes too. A file that is shorter than it was is left as it is.
    """
    for file in logged_files(directory, patterns):
        length = point.event_bytes.get(file.name, 0)
        if length == 0:
            file.unlink()
        elif file.stat().st_size > length:
            os.truncate(file, length)
