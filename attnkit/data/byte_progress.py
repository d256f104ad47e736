"""Shows progress for long work only."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE = 1.0
"""Seconds before anything is shown."""


class ByteProgress:
    """A progress bar on standard error for work that is counted in bytes.

    Shows nothing during the first second. Then a terminal gets a bar, anything else (a log file)
    one line.

    Args:
        label: name of the work, such as "tokenising train".
        total: number of bytes; an estimate is enough.
    """

    def __init__(self, label: str, total: int) -> None:
        self.label = label
        self.total = total
        self._done = 0
        self._started = time.monotonic()
        self._announced = False
        self._bar: Progress | None = None

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, num_bytes: int) -> None:
        """Adds `num_bytes` to the finished bytes."""
        self._done += num_bytes
        if not self._announced and time.monotonic() - self._started > PATIENCE:
            self._announce()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def finish(self, label: str) -> None:
        """Shows that all bytes are read and a step of unknown length follows."""
        self.label = label
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=label, total=None)
        elif self._announced:
            Console(stderr=True).print(label, highlight=False)

    def _announce(self) -> None:
        self._announced = True
        console = Console(stderr=True)
        if not console.is_terminal:
            console.print(f"{self.label}: {decimal(self.total)} (done only once)", highlight=False)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._bar.add_task(self.label, total=self.total)
        self._bar.start()
