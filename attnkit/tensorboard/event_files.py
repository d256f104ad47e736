"""Finds and measures the files that grow while a run is logged, and truncates them when the run
resumes.
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
    """Where the log of a run resumes.

    Attributes:
        step: the last logged step; 0 if there is none.
        event_bytes: logged file -> its length when that step was saved.
    """

    step: int = 0
    event_bytes: Mapping[str, int] = field(default_factory=dict)


def event_files(directory: Path) -> list[Path]:
    """Returns the event files that lie directly in a directory, oldest first."""
    return logged_files(directory, [EVENT_FILES])


def logged_files(directory: Path, patterns: Iterable[str] = LOGGED_FILES) -> list[Path]:
    """Returns the files directly in a directory that match one of some patterns, by name."""
    globs = tuple(patterns)
    try:
        with os.scandir(directory) as entries:
            names = [
                entry.name
                for entry in entries
                if any(fnmatch.fnmatchcase(entry.name, glob) for glob in globs) and entry.is_file()
            ]
    except OSError:
        return []
    return [directory / name for name in sorted(names)]


def logged_bytes(directory: Path, patterns: Iterable[str] = LOGGED_FILES) -> dict[str, int]:
    """Returns file -> its current length, for a `ResumePoint`."""
    return {file.name: file.stat().st_size for file in logged_files(directory, patterns)}


def cut_back(directory: Path, point: ResumePoint, patterns: Iterable[str] = LOGGED_FILES) -> None:
    """Truncates the logged files, so that a run that resumes does not write records twice.

    Lengths decide, not steps: after saving its last step, a stopped run may still log under the
    number of that step (a validation, its status). Incomplete records of a killed process are
    removed too. A file that is shorter than its recorded length does not change.
    """
    for file in logged_files(directory, patterns):
        length = point.event_bytes.get(file.name, 0)
        if length == 0:
            file.unlink()
        elif file.stat().st_size > length:
            os.truncate(file, length)
