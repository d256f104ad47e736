"""Runs trials to their ends: starts what is missing, watches, stops with patience, and says what
failed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from attnkit import run_directory
from attnkit.ablation.launchers.base import KILLED, Ended, Launcher
from attnkit.ablation.progress import Progress
from attnkit.ablation.trial import Trial

LAST_LINES = 12
"""Lines of a failed trial's log that are shown."""

_TICK = 0.5
"""Seconds between looks at the trials."""

_MEANINGS = {
    1: "failed",
    2: "was refused",
    3: "diverged",
    130: "was interrupted",
    143: "was terminated",
    KILLED: "was killed (out of memory?)",
}


class StudyStopped(Exception):
    """Somebody asked the study to end; the message says how to go on.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True)
class Failure:
    """What has no result.

    Attributes:
        key: of the trial, or the name of the variant.
        code: with which its process ended.
        what: became of it, in words.
        log: what it said.
        lines: the last of that.
    """

    key: str
    code: int
    what: str
    log: Path | None = None
    lines: Sequence[str] = ()

    def __str__(self) -> str:
        said = "".join(f"\n    {line}" for line in self.lines)
        return f"{self.key} {self.what}" + (f"; {self.log} ends with:{said}" if self.log else "")


@dataclass
class Signals:
    """SIGINT and SIGTERM, noted and not acted upon: the loop looks at them.

    Attributes:
        first: number of the first one; None: there was none.
        count: how many there were.
    """

    first: int | None = None
    count: int = 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Notes a signal; a third one is acted upon: nothing else has helped."""
        self.first = self.first or number
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt("without waiting for the runs")


@dataclass
class Launch:
    """Trials that are being run.

    Args:
        launcher: starts their processes.
        progress: shows how far they are.
        check: refuse plugins that break a law.
    """

    launcher: Launcher
    progress: Progress
    check: bool = True
    failures: list[Failure] = field(default_factory=list)
    _waiting: list[Trial] = field(default_factory=list)
    _started: dict[str, Trial] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def run(self, trials: Sequence[Trial]) -> list[Failure]:
        """Runs the trials that are not finished; returns those that failed.

        Raises:
            RunDirectoryError: if the directory of one holds another run.
            LauncherError: if the launcher cannot work here.
            StudyStopped: after SIGINT or SIGTERM, when all processes have ended.
        """
        for trial in trials:
            trial.check_same()
        self._waiting = [trial for trial in trials if not trial.is_finished]
        self.progress.begin(trials, self._waiting)
        with listening() as heard, self.progress:
            self._loop(heard)
        if heard.first is not None:
            raise StudyStopped(heard.first, "the same command goes on where this one was stopped")
        return self.failures

    def _loop(self, heard: Signals) -> None:
        deadline: float | None = None
        killed = False
        while self._started or (self._waiting and deadline is None):
            if deadline is None:
                self._start_what_is_free()
            for end in self.launcher.ended(_TICK):
                self._take_leave(end, stopping=deadline is not None)
            self.progress.show(list(self._started.values()), self._waiting)
            if heard.count and deadline is None:
                deadline = time.monotonic() + self.launcher.grace
                self.progress.say(
                    f"{signal.Signals(heard.first or 0).name}: each run finishes its step and "
                    f"saves, for {self.launcher.grace:g} s at the most; once more kills them"
                )
                self.launcher.stop()
            late = deadline is not None and time.monotonic() > deadline
            if (late or heard.count > 1) and not killed:
                killed = True
                self.launcher.kill()

    def _start_what_is_free(self) -> None:
        """Starts trials, but for those that a process of an earlier launch is still busy with."""
        busy = [trial for trial in self._waiting if run_directory.is_in_use(trial.directory)]
        for trial in busy:
            if trial.key not in self._told:
                self._told.add(trial.key)
                self.progress.say(f"{trial.key}: waiting for another process that trains it")
        free = [trial for trial in self._waiting if trial not in busy]
        self._waiting = busy
        if not free:
            time.sleep(0 if self._started else _TICK)
            return
        unfinished = [trial for trial in free if not trial.is_finished]
        for trial in free:
            if trial not in unfinished:
                self.progress.ended(trial, None)
        self._started |= {trial.key: trial for trial in unfinished}
        self.launcher.start([trial.job(check=self.check) for trial in unfinished])

    def _take_leave(self, end: Ended, stopping: bool) -> None:
        trial = self._started.pop(end.key)
        failure = None
        if not trial.is_finished and not stopping:
            meaning = _MEANINGS.get(end.code, f"was ended by signal {-end.code}")
            what = end.reason or f"{meaning} (code {end.code})"
            lines = trial.last_lines(LAST_LINES)
            failure = Failure(trial.key, end.code, what, trial.log, lines)
            self.failures.append(failure)
        if trial.is_finished or failure:
            self.progress.ended(trial, failure.what if failure else None)


@contextmanager
def listening() -> Iterator[Signals]:
    """Notes SIGINT and SIGTERM instead of acting on them."""
    heard = Signals()
    before = {
        number: signal.signal(number, heard.hear)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # nohup stays nohup
    }
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
