"""The files of a study's trials beside their runs, in `.trials/` of its folder.

<variant>.seed<k>.log       the output of a trial
<variant>.seed<k>.failed    why it has no result; removed when it starts again
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

FOLDER = ".trials"
"""Folder of a study for files that do not belong to a run."""

_TAIL_BYTES = 8192


def log_of(study: Path, variant: str, seed: int) -> Path:
    """Returns the file with the output of a trial."""
    return study / FOLDER / f"{variant}.seed{seed}.log"


def failure_of(study: Path, variant: str, seed: int) -> Path:
    """Returns the file that exists once a trial has failed, with the reason."""
    return study / FOLDER / f"{variant}.seed{seed}.failed"


def why_it_failed(study: Path, variant: str, seed: int) -> str:
    """Returns why a trial failed, and its error; empty if it has not failed."""
    failure = failure_of(study, variant, seed)
    if not failure.is_file():
        return ""
    lines = tail(log_of(study, variant, seed)).splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return ": ".join([tail(failure).strip(), *errors[-1:]])


def last_lines(log: Path, count: int) -> list[str]:
    """Returns the last non-blank lines of an output."""
    return list(deque((line for line in tail(log).splitlines() if line.strip()), maxlen=count))


def progress_in(log: Path, study: str, variant: str) -> str:
    """Returns the last line of progress in the output of a trial; empty if there is none yet."""
    label = f"{study}/{variant}  "
    lines = [line for line in tail(log).splitlines() if line.startswith(label)]
    return lines[-1].removeprefix(label).strip() if lines else ""


def tail(log: Path) -> str:
    """Returns the end of a text file; empty if it cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _TAIL_BYTES, 0))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
