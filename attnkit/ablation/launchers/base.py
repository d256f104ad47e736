"""The contract of launchers: they start processes and report their ends. They know nothing about
training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnkit.errors import UserError

KILLED = -9
"""Exit code of a job that was killed, or whose exit code is unknown."""


class LauncherError(UserError):
    """A launcher is not available here; the message names what is missing."""


@dataclass(frozen=True)
class Job:
    """A process to start.

    Attributes:
        key: unique name.
        arguments: command line after `python`.
        log: file for its output; replaced if it exists.
        folder: working directory.
    """

    key: str
    arguments: tuple[str, ...]
    log: Path
    folder: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Attributes:
        key: of the job.
        code: its exit code; minus the number of the signal that killed it.
        reason: why it ended, if the launcher knows.
        neighbours: mean number of jobs beside it on the same machine; None: unknown.
    """

    key: str
    code: int
    reason: str = ""
    neighbours: float | None = None


class Launcher(ABC):
    """Starts jobs, as many at once as allowed, and reports their ends.

    A subclass is registered in `LAUNCHERS`. Its options are keyword-only parameters
    with defaults; it passes `**options` on.

    Args:
        workers: number of jobs at the same time; None: as many as the machine has room for.
        grace: seconds that a job has to save its state after SIGTERM, before it is killed.
    """

    def __init__(self, workers: int | None = None, *, grace: float = 30.0) -> None:
        if grace < 0:
            raise ValueError(f"grace must be at least 0, got {grace}")
        self.workers = workers
        self.grace = grace

    @abstractmethod
    def start(self, jobs: Sequence[Job]) -> None:
        """Adds jobs and starts them as soon as there is room. May be called again.

        Raises:
            LauncherError: if the launcher is not available here.
        """

    @abstractmethod
    def ended(self, seconds: float) -> list[Ended]:
        """Returns the jobs that ended since the last call; waits up to `seconds` for one."""

    @abstractmethod
    def stop(self) -> None:
        """Sends SIGTERM to all jobs, so that they save their state, and starts no more.

        `ended` still reports their ends.
        """

    @abstractmethod
    def kill(self) -> None:
        """Ends all jobs at once (SIGKILL)."""

    @abstractmethod
    def describe(self) -> str:
        """Returns a short description of the place and the resources of each job."""

    @abstractmethod
    def close(self) -> None:
        """Ends what still runs and releases all resources."""


def thread_variables(threads: int) -> dict[str, str]:
    """Returns the environment of a process that computes with `threads` threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
