"""A job as a process of this machine, which ends when its parent does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from attnkit.ablation.launchers.base import Job

_LIFELINE = "ATTNKIT_ENDS_WITH_STDIN"
"""Environment variable of a job whose standard input is a pipe that its parent keeps open."""


class Running(Protocol):
    """A job that was started on this machine; see `JobProcess`."""

    def code(self) -> int | None: ...

    def wait(self, seconds: float) -> int | None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


class JobProcess:
    """A job that runs on this machine.

    It runs in its own session, so that Ctrl-C reaches it only through its launcher. If the launcher
    is killed, the pipe to the job breaks: a job of attnkit notices (`end_with_parent`), saves its
    state and ends.

    Args:
        job: what to run.
        environment: variables to set, in addition to those of this process.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *job.arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=job.folder,
                env={**os.environ, **environment, _LIFELINE: "1"},
                start_new_session=True,  # no effect on Windows, where the group does the same
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )

    def code(self) -> int | None:
        """Returns the exit code, minus the number of a signal that killed it; None if it runs."""
        code = self._process.poll()
        if code is not None:
            self._close_pipe()
        return code

    def wait(self, seconds: float) -> int | None:
        """Waits for the end for at most `seconds`, then returns `code()`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.code()

    def stop(self) -> None:
        """Sends SIGTERM, so that the job saves its state and ends."""
        if sys.platform == "win32":  # `terminate` would kill
            self._close_pipe()
        else:
            self._process.terminate()

    def kill(self) -> None:
        """Kills the job and the processes that it has started."""
        if self.code() is not None:
            return
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


def end_with_parent() -> None:
    """Makes a job end as after SIGTERM when its parent process ends for any reason.

    Call it first in a process of attnkit. Does nothing if the process is not a job.
    """
    if os.environ.pop(_LIFELINE, None) is None:
        return

    def wait() -> None:
        while os.read(0, 1):  # nothing is ever written: this returns when the pipe closes
            pass
        if sys.platform == "win32":
            signal.raise_signal(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def run_to_end(job: Job, environment: Mapping[str, str], grace: float) -> int:
    """Runs a job and returns its exit code; launchers call this on other machines.

    An exception (a cancelled task) stops the job, and kills it after `grace` seconds.
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
