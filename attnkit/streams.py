"""Standard output and error that may fail: what only reports must not end what trains."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Tolerant:
    """A text stream that gives up what cannot be written: on a full disk, or to a reader or a
    terminal that has gone.

    Args:
        stream: what is written to; None where the process has none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or does not; either way the text counts as written."""
        self._try("write", text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Brings to the system what was written."""
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
        except (OSError, ValueError):  # ValueError: it was closed
            self._give_up()

    def _give_up(self) -> None:
        """Leads the stream nowhere: the interpreter flushes it once more where it ends, and would
        end with an error of its own.
        """
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Inside, a failure to write to standard output or error is no error."""
    before = sys.stdout, sys.stderr
    ours = tuple(_Tolerant(stream) for stream in before)
    sys.stdout, sys.stderr = ours  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for stream in ours:
            stream.flush()
        if (sys.stdout, sys.stderr) == ours:
            sys.stdout, sys.stderr = before
