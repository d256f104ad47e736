"""Runs trials until they end: starts what is missing, waits, stops on request, reports failures."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from attnkit.ablation.launchers.base import KILLED, Ended, Launcher
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.trial import Trial
from attnkit.storage import run_directory

LAST_LINES = 12
"""Lines of a failed trial's log that are shown."""

_TICK = 0.5
"""Seconds between two checks of the trials."""

REFUSED = 2
"""Exit code of a run with invalid input, such as a plugin or a key; its message says what."""

_MEANINGS = {
    1: "failed",
    REFUSED: "was refused",
    3: "diverged",
    130: "was interrupted",
    143: "was terminated",
    KILLED: "was killed (out of memory?)",
}


class StudyStopped(Exception):
    """A signal has stopped the study; the message explains how to continue.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True)
class Failure:
    """A trial without a result.

    Attributes:
        key: of the trial, or the name of the variant.
        code: exit code of its process.
        what: the reason, as a verb phrase.
        log: file with its output.
        lines: the last lines of that file.
    """

    key: str
    code: int
    what: str
    log: Path | None = None
    lines: Sequence[str] = ()

    def __str__(self) -> str:
        lines = "".join(f"\n    {line}" for line in self.lines)
        return f"{self.key} {self.what}" + (f"; {self.log} ends with:{lines}" if self.log else "")


@dataclass
class Signals:
    """Counts SIGINT and SIGTERM; the loop of `Launch` acts on them.

    Attributes:
        first: number of the first signal; None: there was none.
        count: number of signals.
    """

    first: int | None = None
    count: int = 0

    def count_one(self, number: int, frame: FrameType | None) -> None:
        """Counts a signal; the third one interrupts at once."""
        self.first = self.first or number
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt("without waiting for the runs")


@dataclass
class Launch:
    """Runs trials.

    Args:
        launcher: starts their processes.
        progress: shows their progress.
        check: refuse plugins that break a law.
        on_finish: called with each finished trial.
    """

    launcher: Launcher
    progress: Progress
    check: bool = True
    on_finish: Callable[[Trial], object] = lambda trial: None
    failures: list[Failure] = field(default_factory=list)
    _waiting: list[Trial] = field(default_factory=list)
    _started: dict[str, Trial] = field(default_factory=dict)
    _announced: set[str] = field(default_factory=set)

    def run(self, trials: Sequence[Trial]) -> list[Failure]:
        """Runs the trials that are not done; returns those that failed.

        Raises:
            RunDirectoryError: if the directory of one contains another run.
            LauncherError: if the launcher is not available here.
            StudyStopped: after SIGINT or SIGTERM, when all processes have ended.
        """
        for trial in trials:
            trial.check_same()
        self._waiting = [trial for trial in trials if not trial.is_done]
        self.progress.begin(trials, self._waiting)
        with counting_signals() as signals, self.progress:
            self._loop(signals)
        if signals.first is not None:
            raise StudyStopped(signals.first, "run the same command again to continue")
        return self.failures

    def _loop(self, signals: Signals) -> None:
        deadline: float | None = None
        killed = False
        while self._started or (self._waiting and deadline is None):
            if deadline is None:
                self._start_free_trials()
            for end in self.launcher.ended(_TICK):
                self._record_end(end, stopping=deadline is not None)
            self.progress.show(list(self._started.values()), self._waiting)
            if signals.count and deadline is None:
                deadline = time.monotonic() + self.launcher.grace
                self.progress.write(
                    f"{signal.Signals(signals.first or 0).name}: each run finishes its step and "
                    f"saves, within {self.launcher.grace:g} s; a second signal kills them"
                )
                self.launcher.stop()
            late = deadline is not None and time.monotonic() > deadline
            if (late or signals.count > 1) and not killed:
                killed = True
                self.launcher.kill()

    def _start_free_trials(self) -> None:
        """Starts trials, except those that a process of an earlier launch still trains."""
        busy = [trial for trial in self._waiting if run_directory.is_in_use(trial.directory)]
        for trial in busy:
            if trial.key not in self._announced:
                self._announced.add(trial.key)
                self.progress.write(f"{trial.key}: waiting for another process that trains it")
        free = [trial for trial in self._waiting if trial not in busy]
        self._waiting = busy
        if not free:
            time.sleep(0 if self._started else _TICK)
            return
        unfinished = [trial for trial in free if not trial.is_done]
        for trial in free:
            if trial not in unfinished:
                self.progress.report_end(trial, None)
        self._started |= {trial.key: trial for trial in unfinished}
        self.launcher.start([trial.job(check=self.check) for trial in unfinished])

    def _record_end(self, end: Ended, stopping: bool) -> None:
        trial = self._started.pop(end.key)
        if end.neighbours is not None:
            trial.record_neighbours(end.neighbours)
        failure, is_done = None, trial.is_done
        if not is_done and not stopping:
            meaning = _MEANINGS.get(end.code, f"was ended by signal {-end.code}")
            what = end.reason or f"{meaning} (code {end.code})"
            lines = trial.last_lines(LAST_LINES)
            failure = Failure(trial.key, end.code, what, trial.log, lines)
            self.failures.append(failure)
            trial.record_failure(what)
        if is_done or failure:
            self.progress.report_end(trial, failure.what if failure else None)
        if trial.is_finished:
            self.on_finish(trial)


@contextmanager
def counting_signals() -> Iterator[Signals]:
    """Counts SIGINT and SIGTERM instead of acting on them."""
    signals = Signals()
    before = {
        number: signal.signal(number, signals.count_one)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # nohup stays nohup
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
