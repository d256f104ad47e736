"""Event files are worth less than training: what cannot be written to them is given up, aloud."""

# What is wrapped here has private names only.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("attnkit")


class TolerantRecords:
    """Writes records until the file system refuses one; then says so, and writes no more.

    A record that was half-written would hide all that came after it, so there is no second try.

    Args:
        records: TensorBoard's own writer of records.
        directory: named in the warning.
    """

    def __init__(self, records: Any, directory: str) -> None:
        self.records = records
        self.directory = directory
        self.has_failed = False

    def write(self, data: bytes) -> None:
        """Writes a record."""
        self._try(lambda: self.records.write(data))

    def flush(self) -> None:
        """Brings all records to the file."""
        self._try(self.records.flush)

    def close(self) -> None:
        """Closes the file."""
        self._try(self.records.close)

    def _try(self, act: Callable[[], Any]) -> None:
        if self.has_failed:
            return
        try:
            act()
        except OSError as error:
            self.has_failed = True
            log.warning(
                "the event file in %s cannot be written: %s; training goes on, and TensorBoard "
                "will not show the rest of it",
                self.directory,
                error.strerror or error,
            )


def make_tolerant(writer: SummaryWriter, directory: str) -> None:
    """Has a writer give up, with a warning, what the file system refuses.

    TensorBoard's thread would die of it with a traceback, and the next scalar end the training.
    """
    file_writer = writer._get_file_writer()
    assert file_writer is not None
    queue = file_writer.event_writer._async_writer
    queue._writer = queue._worker._record_writer = TolerantRecords(queue._writer, directory)
