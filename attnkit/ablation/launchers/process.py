"""A job as a process of this machine: it ends when its parent does, and is ended with patience."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from attnkit.ablation.launchers.base import Job

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG, prctl(2)."""


class JobProcess:
    """A job that runs on this machine.

    It is a session of its own, so that Ctrl-C reaches it by way of its launcher alone. Should the
    launcher be killed, Linux sends it SIGTERM: it saves its state and ends, and does not train on
    with nobody waiting. That holds for the thread that starts it, which must live as long as it.

    Args:
        job: what to run.
        environment: variables to set, besides those of this process.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=job.folder,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
            )

    def code(self) -> int | None:
        """The exit code, minus the number of the signal that killed it; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """As `code`, after waiting for the end for a while."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.code()

    def stop(self) -> None:
        """Asks it to save its state and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it at once, with the processes that it has started."""
        if self.code() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _end_with_parent() -> Callable[[], None]:
    """What a forked child does before it becomes the job. Found here: between fork and exec a
    process must not load anything.
    """
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def act() -> None:
        prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before
            os._exit(1)

    return act


def run_to_end(job: Job, environment: Mapping[str, str], grace: float) -> int:
    """Runs a job and returns its exit code; what a launcher on other machines executes there.

    An exception from outside (a task that is cancelled) stops the job first: it has `grace` seconds
    before it is killed.
    """
    process = JobProcess(job, environment)
    try:
        while (code := process.wait(1.0)) is None:
            pass
        return code
    finally:
        if process.code() is None:
            process.stop()
            process.wait(grace)
            process.kill()
