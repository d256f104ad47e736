"""The console of all commands, tables, progress bars, and output streams whose failure does not end
training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

Item = TypeVar("Item")

console = Console(highlight=False, soft_wrap=True)


def numbers_table(title: str) -> Table:
    """A table of names, numbers and remarks."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column(title)
    table.add_column("", justify="right")
    table.add_column("", style="dim", overflow="fold")
    return table


def progress_bar(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yields items, with a progress bar on a terminal."""
    from rich.progress import track

    screen = Console(stderr=True)
    yield from track(items, label, console=screen, transient=True, disable=not screen.is_terminal)


class _Tolerant:
    """A text stream that drops text that cannot be written: the disk is full, or the reader or the
    terminal is gone.

    Args:
        stream: the underlying stream; None if the process has none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text if possible; returns its length in any case."""
        self._try("write", text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes the stream if possible."""
        self._try("flush")

    def isatty(self) -> bool:
        """True on a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, name: str, *arguments: Any) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, name)(*arguments)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._give_up()

    def _give_up(self) -> None:
        """Redirects the stream to the null device, so that the interpreter's last flush works."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Tolerates failures of standard output and error within the block."""
    original = sys.stdout, sys.stderr
    tolerant = tuple(_Tolerant(stream) for stream in original)
    sys.stdout, sys.stderr = tolerant  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for stream in tolerant:
            stream.flush()
        if (sys.stdout, sys.stderr) == tolerant:
            sys.stdout, sys.stderr = original
