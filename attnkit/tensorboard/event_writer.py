"""Writes an event file of TensorBoard in a thread, and gives up if the file system fails."""

# Pyright does not know the names in modules that the protocol buffer compiler generated.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from attnkit.tensorboard.event_files import event_files

log = logging.getLogger("attnkit")

FLUSH_SECONDS = 15.0
"""Longest time before a record is flushed to the file system."""


class EventWriter:
    """An event file, written in a thread, since checksums of records take 0.3 s per MiB.

    A failure to write does not end training. It is reported once, and the file is not written any
    further, since an incomplete record would hide all later ones.

    Args:
        directory: folder of the file, which is named so that TensorBoard reads it after existing
            ones.
        forget_from: TensorBoard discards what it has read of this step and of later ones; None:
            nothing.

    Raises:
        OSError: if the file cannot be created.
    """

    def __init__(self, directory: Path, forget_from: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.has_failed = False
        # TensorBoard reads files in the order of their names, which begin with a second.
        stamps = [file.name.split(".")[3] for file in event_files(directory)]
        later = [int(stamp) + 1 for stamp in stamps if stamp.isdecimal()]
        stamp = max([int(time.time()), *later])
        self.path = directory / f"events.out.tfevents.{stamp:010}.{os.getpid()}"
        self._file = self.path.open("xb")
        self._records = RecordWriter(self._file)
        self._queue: queue.Queue[bytes | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="event file", daemon=True)
        self._thread.start()
        self.add_event(Event(file_version="brain.Event:2"))
        if forget_from is not None:
            start = SessionLog(status=SessionLog.START)
            self.add_event(Event(step=forget_from, session_log=start))

    def add_event(self, event: Any) -> None:
        """Queues an event; without a time it gets the current one."""
        if not event.wall_time:
            event.wall_time = time.time()
        self._queue.put(event.SerializeToString())

    def add_summary(self, summary: Any, step: int) -> None:
        """Queues a summary of a step."""
        self.add_event(Event(step=step, summary=summary))

    def get_logdir(self) -> str:
        """Returns the directory; torch's `FileWriter` has this method."""
        return str(self.directory)

    def flush(self) -> None:
        """Returns when everything in the queue is in the file, or writing has failed."""
        if self._thread.is_alive():
            self._queue.join()
            self._attempt(self._file.flush)

    def close(self) -> None:
        """Writes the queue and closes the file; a second call does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            try:
                self._file.close()
            except OSError as error:
                self._give_up(error)

    def _work(self) -> None:
        flushed = time.monotonic()
        while True:
            record = b""
            try:
                record = self._queue.get(timeout=FLUSH_SECONDS)
                if record is None:
                    return
                self._attempt(lambda data=record: self._records.write(data))
            except queue.Empty:
                pass
            finally:
                if record != b"":
                    self._queue.task_done()
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                self._attempt(self._file.flush)
                flushed = time.monotonic()

    def _attempt(self, act: Callable[[], Any]) -> None:
        if self.has_failed:
            return
        try:
            act()
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self.has_failed:
            return
        self.has_failed = True
        log.warning(
            "the event file in %s cannot be written: %s; training continues, and TensorBoard will "
            "not show the rest of it",
            self.directory,
            getattr(error, "strerror", None) or error,
        )
