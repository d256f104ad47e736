"""PyTorch's SummaryWriter on an event file that is already open."""

from __future__ import annotations

from torch.utils.tensorboard import FileWriter, SummaryWriter

from attnkit.tensorboard.event_writer import EventWriter


class SharedSummaryWriter(SummaryWriter):
    """Writes to the event file of a run; like `EventWriter` it never raises an `OSError`.

    Args:
        events: the file.
    """

    def __init__(self, events: EventWriter) -> None:
        self._shared = _SharedFile(events)
        super().__init__(events.get_logdir())

    def _get_file_writer(self) -> FileWriter:
        """Returns the shared file; torch would open a second one."""
        self.file_writer = self._shared
        self.all_writers = {self.log_dir: self._shared}
        return self._shared


class _SharedFile(FileWriter):
    def __init__(self, events: EventWriter) -> None:
        self.event_writer = events

    def close(self) -> None:
        """Flushes; the file stays open."""
        self.flush()
