"""Runs jobs as forks of a process that has imported torch and Lightning once."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

from attnkit.ablation.launchers.base import Job, LauncherError
from attnkit.ablation.launchers.local import Local
from attnkit.ablation.launchers.process import Running
from attnkit.hardware.process import prepare
from attnkit.registry import LAUNCHERS

PRELOADED = ("attnkit.cli.main", "attnkit.runs.experiment", "attnkit.runs.report")
"""Modules that import what a run needs."""


@LAUNCHERS.register("forked")
class Forked(Local):
    """Like `local`, but imports torch and Lightning once for all runs. Useful for many short runs,
    which take longer to start than to train. Linux and macOS only.
    """

    def describe(self) -> str:
        return f"{super().describe()}, forked"

    def begin(self, job: Job, environment: Mapping[str, str]) -> Running:
        if "forkserver" not in multiprocessing.get_all_start_methods():
            raise LauncherError("the launcher `forked` needs fork; use `local` on this system")
        return ForkedProcess(job, environment)


class ForkedProcess:
    """A job as a forked process, in its own session; see `JobProcess`.

    Args:
        job: what to run.
        environment: variables to set, in addition to those of this process.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_bytes(b"")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOADED, __name__])
        variables = {**os.environ, **environment}
        self._process = context.Process(target=_run, args=(job, variables), daemon=False)
        self._process.start()

    def code(self) -> int | None:
        """Returns the exit code, minus the number of a signal that killed it; None if it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int | None:
        """Waits for the end for at most `seconds`, then returns `code()`."""
        self._process.join(seconds)
        return self.code()

    def stop(self) -> None:
        """Sends SIGTERM, so that the job saves its state and ends."""
        self._process.terminate()

    def kill(self) -> None:
        """Kills the job and the processes that it has started."""
        if self.code() is None and self._process.pid is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not begun its session yet
                self._process.kill()


def _run(job: Job, variables: Mapping[str, str]) -> None:
    """Runs `python <arguments>` in a fork, with the job's output in its log."""
    os.setsid()
    with job.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(variables)
    prepare()
    _end_with_parent()
    import torch

    torch.set_num_threads(int(variables["OMP_NUM_THREADS"].split(",")[0]))
    arguments = [word for word in job.arguments if word != "-P"]
    option, what, *rest = arguments
    sys.argv = [what, *rest]
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<job>", "exec"), {"__name__": "__main__"})
    finally:
        with suppress(OSError):
            sys.stdout.flush()


def _end_with_parent() -> None:
    """Makes the job end as after SIGTERM when its launcher ends for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
