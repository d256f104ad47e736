"""Lightning's way to a run's checkpoint store: serialises at once, writes in the background."""

from __future__ import annotations

import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from attnkit.checkpoints.reading import read_checkpoint
from attnkit.checkpoints.store import CheckpointStore

NOTES = "attnkit"
"""Key of a checkpoint under which the kit's own notes stand: `loss`, `event_bytes`."""


class StoredCheckpoints(CheckpointIO):
    """Saves to and loads from a `CheckpointStore`.

    A checkpoint is turned into bytes while training waits, about 1 ms a megabyte. Hashing, writing
    and bringing it to the disk take several times as long, and happen in a thread; the next save
    waits for the one before, so that at most one is under way, and files change in order.

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
        """Begins to save; names are the store's affair, so `path` does not count.

        Raises:
            CheckpointError: if the checkpoint before this one could not be written.
        """
        self.wait()
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        notes = checkpoint[NOTES]
        step, loss, event_bytes = checkpoint["global_step"], notes["loss"], notes["event_bytes"]

        def write() -> None:
            try:
                self.store.save(buffer.getbuffer(), step=step, loss=loss, event_bytes=event_bytes)
            except BaseException as error:  # raised again where it can be heard
                self._failure = error

        # No daemon: an interpreter that ends waits for it.
        self._thread = threading.Thread(target=write, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns when nothing is under way.

        Raises:
            CheckpointError: if what was under way could not be written.
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
        """Loads a file that verifies, as plain data only, whatever `weights_only` says.

        Raises:
            CheckpointError: if it does not verify.
        """
        return read_checkpoint(self.store.check(Path(path).name), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Does nothing: the store removes what is not kept."""

    def teardown(self) -> None:
        """Waits, since Lightning asks for it where a run ends.

        Raises:
            CheckpointError: as `wait`.
        """
        self.wait()
