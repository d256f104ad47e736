"""What a launcher is: it starts processes and tells of their ends, and knows nothing of what they
do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnkit.errors import UserError

KILLED = -9
"""Code of a job that was killed, also where nobody saw its exit code."""


class LauncherError(UserError):
    """A launcher that cannot work here; the message says what it lacks."""


@dataclass(frozen=True)
class Job:
    """A process to be started.

    Attributes:
        key: tells it from the others.
        arguments: what follows `python`.
        log: receives what it writes; what lies there is replaced.
        folder: in which it runs.
    """

    key: str
    arguments: tuple[str, ...]
    log: Path
    folder: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Ended:
    """A job that is over.

    Attributes:
        key: of the job.
        code: its exit code; minus the number of the signal that killed it.
        reason: what the launcher knows besides, if anything.
    """

    key: str
    code: int
    reason: str = ""


class Launcher(ABC):
    """Starts jobs, as many at once as it may, and tells of their ends.

    A subclass is registered under the name of its file. Its options are keyword-only parameters
    with defaults; it ends in `**options`, which it passes on.

    Args:
        workers: jobs at the same time; None: as many as the place has room for.
        grace: seconds that a job has to save its state and end, once it is asked to, before it is
            killed.
    """

    def __init__(self, workers: int | None = None, *, grace: float = 30.0) -> None:
        if grace < 0:
            raise ValueError(f"grace must be at least 0, got {grace}")
        self.workers = workers
        self.grace = grace

    @abstractmethod
    def start(self, jobs: Sequence[Job]) -> None:
        """Takes jobs on, and begins them as soon as there is room; may be called again.

        Raises:
            LauncherError: if it cannot work here.
        """

    @abstractmethod
    def ended(self, seconds: float) -> list[Ended]:
        """Returns the jobs that ended since the last call; waits a while for one, if need be."""

    @abstractmethod
    def stop(self) -> None:
        """Asks all jobs to save their state and end (SIGTERM), and begins no more. Their ends are
        still told by `ended`.
        """

    @abstractmethod
    def kill(self) -> None:
        """Ends all jobs at once (SIGKILL)."""

    @abstractmethod
    def describe(self) -> str:
        """Says in a few words where the jobs run and what each has."""

    @abstractmethod
    def close(self) -> None:
        """Ends what still runs, and lets go of what it holds."""


def thread_variables(threads: int) -> dict[str, str]:
    """Environment of a process that is to compute with so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
