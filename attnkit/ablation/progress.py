"""Says how far the trials of a study are: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from attnkit.ablation.trial import Trial

LINE_SECONDS = 30.0
"""Seconds between lines about each running trial in a log."""


class Progress:
    """One line a trial: while it runs, its step, loss and remaining time; then its number.

    Args:
        metric: the number that is shown of a finished trial.
        stage: what stands before each line.
    """

    def __init__(self, metric: str, stage: str = "") -> None:
        self.metric = metric
        self.stage = stage
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._total = 0
        self._done = 0
        self._began: dict[str, float] = {}
        self._shown = time.monotonic()

    def begin(self, trials: Sequence[Trial], missing: Sequence[Trial]) -> None:
        """Takes note of how many there are, and how many are done already."""
        self._total, self._done = len(trials), len(trials) - len(missing)
        if self._done:
            self.say(f"{self.stage}{self._done} of {self._total} are finished already")

    def __enter__(self) -> Progress:
        """Begins to draw."""
        if self.console.is_terminal:
            # Drawn on demand: a thread of its own would make forking processes unsafe.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Ends drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Prints a line."""
        self.console.print(line, markup=False)

    def show(self, running: Sequence[Trial], waiting: Sequence[Trial]) -> None:
        """Shows the state, if the last time is a while ago."""
        now = time.monotonic()
        for trial in running:
            if trial.key not in self._began and trial.log.exists():
                self._began[trial.key] = now
        visible = [trial for trial in running if trial.key in self._began]
        if self._live is not None:
            table = Table.grid(padding=(0, 2))
            for trial in visible:
                table.add_row(Text(trial.key, style="cyan"), trial.progress() or "starting")
            count = len(running) - len(visible) + len(waiting)
            table.add_row(Text(f"{self._done} of {self._total} done, {count} to come", "dim"))
            self._live.update(table, refresh=True)
        elif now - self._shown >= LINE_SECONDS:
            self._shown = now
            for trial in visible:
                self.say(f"{self.stage}        {trial.key}  {trial.progress() or 'starting'}")

    def ended(self, trial: Trial, failure: str | None) -> None:
        """Tells the end of a trial; `failure` says what became of it, if it has no result."""
        self._done += 1
        width = len(str(self._total))
        count = f"[{self._done:>{width}}/{self._total}]"
        if failure is not None:
            self.say(f"{self.stage}{count} {trial.key}  {failure}")
            return
        began = self._began.get(trial.key)
        took = "" if began is None else f"  {time.monotonic() - began:.0f} s"
        metric = f"{self.metric} {trial.metric(self.metric):.4f}"
        self.say(f"{self.stage}{count} {trial.key}  {metric}{took}")
