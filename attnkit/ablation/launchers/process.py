"""A job as a process of this machine: it ends when its parent does, and is ended with patience."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

from attnkit.ablation.launchers.base import Job

_LIFELINE = "ATTNKIT_ENDS_WITH_STDIN"
"""Set in the environment of a job, whose standard input is a pipe that its parent holds open."""


class JobProcess:
    """A job that runs on this machine.

    It is a session of its own, so that Ctrl-C reaches it by way of its launcher alone. Should the
    launcher be killed, the pipe to the job breaks: a job of attnkit hears that (`end_with_parent`),
    saves its state and ends, and does not train on with nobody waiting.

    Args:
        job: what to run.
        environment: variables to set, besides those of this process.
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
                start_new_session=True,  # of no effect on Windows, where a group is the same
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )

    def code(self) -> int | None:
        """The exit code, minus the number of the signal that killed it; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._let_go()
        return code

    def wait(self, seconds: float) -> int | None:
        """As `code`, after waiting for the end for a while."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.code()

    def stop(self) -> None:
        """Asks it to save its state and end."""
        if sys.platform == "win32":  # whose `terminate` kills
            self._let_go()
        else:
            self._process.terminate()

    def kill(self) -> None:
        """Ends it at once, with the processes that it has started."""
        if self.code() is not None:
            return
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _let_go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


def end_with_parent() -> None:
    """Has a job end as after SIGTERM when the process that started it is gone, whatever ended that
    one; what a process of attnkit calls first. Does nothing in a process that is no job.
    """
    if os.environ.pop(_LIFELINE, None) is None:
        return

    def wait() -> None:
        while os.read(0, 1):  # nobody writes: it returns at the end of the pipe
            pass
        if sys.platform == "win32":
            signal.raise_signal(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


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
