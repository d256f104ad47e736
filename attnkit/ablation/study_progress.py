"""Shows the progress of a study's trials: live on a terminal, as occasional lines in a log."""

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
"""Seconds between two lines about each running trial in a log."""


class Progress:
    """One line per trial: step, loss and remaining time while it runs; then its metric.

    Args:
        metric: the metric that is shown for a finished trial.
        stage: prefix of each line.
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
        """Stores the number of trials and how many are finished."""
        self._total, self._done = len(trials), len(trials) - len(missing)
        if self._done:
            word = "there" if any(trial.until is not None for trial in trials) else "finished"
            self.write(f"{self.stage}{self._done} of {self._total} are already {word}")

    def __enter__(self) -> Progress:
        """Starts drawing."""
        if self.console.is_terminal:
            # Refreshed on demand: a drawing thread would make it unsafe to fork processes.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Stops drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def write(self, line: str) -> None:
        """Prints a line."""
        self.console.print(line, markup=False)

    def show(self, running: Sequence[Trial], waiting: Sequence[Trial]) -> None:
        """Updates the display, unless the last update is recent."""
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
                self.write(f"{self.stage}        {trial.key}  {trial.progress() or 'starting'}")

    def report_end(self, trial: Trial, failure: str | None) -> None:
        """Prints the end of a trial; `failure` is the reason if it has no result."""
        self._done += 1
        width = len(str(self._total))
        count = f"[{self._done:>{width}}/{self._total}]"
        if failure is not None:
            self.write(f"{self.stage}{count} {trial.key}  {failure}")
            return
        began = self._began.get(trial.key)
        took = "" if began is None else f"  {time.monotonic() - began:.0f} s"
        reached = f"step {trial.until:,}" if trial.until is not None else ""
        if trial.is_finished:
            reached = f"{self.metric} {trial.metric(self.metric):.4f}"
        self.write(f"{self.stage}{count} {trial.key}  {reached}{took}")
