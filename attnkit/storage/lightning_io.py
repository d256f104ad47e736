"""Connects Lightning to a run's checkpoint store: serialises at once, writes in the background."""

from __future__ import annotations

import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from attnkit.storage.checkpoint_reading import read_checkpoint
from attnkit.storage.checkpoint_store import CheckpointStore

NOTES = "attnkit"
"""Key of a checkpoint for the notes of attnkit: `loss`, `event_bytes`."""


class StoredCheckpoints(CheckpointIO):
    """Saves to and loads from a `CheckpointStore`.

    Training waits while a checkpoint is serialised, about 1 ms per megabyte. A thread then hashes
    it and writes it to disk, which takes several times as long. Each save waits for the previous
    one, so that at most one is in progress, and files change in order.

    Args:
        store: the files of the run.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Starts saving. The store chooses the name; `path` is ignored.

        Raises:
            CheckpointError: if the previous checkpoint could not be written.
        """
        self.wait()
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        notes = checkpoint[NOTES]
        step, loss, event_bytes = checkpoint["global_step"], notes["loss"], notes["event_bytes"]

        def write() -> None:
            try:
                self.store.save(buffer.getbuffer(), step=step, loss=loss, event_bytes=event_bytes)
            except BaseException as error:  # raised again by `wait`
                self._failure = error

        # Not a daemon: the interpreter waits for it before it exits.
        self._thread = threading.Thread(target=write, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the save in progress, if any.

        Raises:
            CheckpointError: if it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads a file after verifying it, as plain data only, whatever `weights_only` is.

        Raises:
            CheckpointError: if its digest is wrong.
        """
        return read_checkpoint(self.store.check(Path(path).name), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Does nothing: the store removes old files."""

    def teardown(self) -> None:
        """Waits for the save in progress; Lightning calls it at the end of a run.

        Raises:
            CheckpointError: as `wait`.
        """
        self.wait()
