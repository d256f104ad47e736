"""The event files of a run directory: finding them, and cutting them back when a run resumes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ResumePoint:
    """Where a run resumes, for what it logs.

    Attributes:
        step: the last step that is done and logged; 0 if nothing is.
        event_bytes: event file -> how much of it was written when that step was saved.
    """

    step: int = 0
    event_bytes: Mapping[str, int] = field(default_factory=dict)


def event_files(directory: Path) -> list[Path]:
    """Returns the event files that lie directly in a directory, oldest first."""
    return sorted(directory.glob("events.out.tfevents.*"))


def cut_back(directory: Path, point: ResumePoint) -> None:
    """Removes from the event files what a run that resumes will write again.

    Lengths decide, not steps: what a stopped run logs of its last step, after it was saved (a last
    validation, how it ended), has the very number of the step that was saved. A record that a
    killed process left unfinished goes too. A file that is shorter than it was is left as it is.
    """
    for file in event_files(directory):
        length = point.event_bytes.get(file.name, 0)
        if length == 0:
            file.unlink()
        elif file.stat().st_size > length:
            os.truncate(file, length)


def wait_for_a_later_name(directory: Path) -> None:
    """Returns when an event file that is made now comes behind those that are there: TensorBoard
    reads them in the order of their names, and they are named by the second.
    """
    stamps = {file.name.split(".")[3] for file in event_files(directory)}
    while f"{int(time.time()):010}" in stamps:
        time.sleep(0.05)
