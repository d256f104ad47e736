"""Who listens to a run: one small interface for TensorBoard, files and servers. Loads nothing
heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attnkit.tensorboard.event_files import ResumePoint

if TYPE_CHECKING:
    from attnkit.tensorboard.attention_record import AttentionRecord
    from attnkit.tensorboard.images import Image

STATUSES = ("success", "failed", "aborted", "finished")
"""How a run ends, in Lightning's words; `finished`: put back into a cluster's queue."""


@dataclass(frozen=True)
class RunPlace:
    """The run that is listened to.

    Attributes:
        directory: where it lies.
        name: the recipe's name.
        variant: what is varied in it.
        seed: its seed.
        runs_dir: the folder of all runs.
        resume: where it goes on; None: it begins.
    """

    directory: Path
    name: str = "run"
    variant: str = "base"
    seed: int = 0
    runs_dir: Path = field(default_factory=Path)
    resume: ResumePoint | None = None

    def recall(self, logger: str) -> str | None:
        """The id that a server gave to this run, if `remember` has kept one."""
        file = self.directory / LOGGER_IDS / logger
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None

    def remember(self, logger: str, run_id: str) -> None:
        """Keeps the id that a server gave to this run, so that a resumed run goes on under it."""
        folder = self.directory / LOGGER_IDS
        folder.mkdir(exist_ok=True)
        (folder / logger).write_text(f"{run_id}\n", encoding="utf-8")


LOGGER_IDS = "logger_ids"
"""In a run's directory: a file for each server, with the id of the run there."""


class Listener:
    """Listens to a run. Every verb does nothing unless a subclass overrides it.

    Only the first process of a run calls it. In a run each call is guarded: an exception is told
    once, and training goes on. A plugin registers a subclass in `LOGGERS`; its keyword-only
    parameters are the keys of a recipe's `logging.to`.

    Attributes:
        packages: what must be installed besides attnkit, as `pip install` takes it.
        files: patterns of the files that it writes directly into the run's directory, each only
            ever appended to: a run that resumes cuts them back to what they held at its checkpoint.
        in_background: call the verbs in a thread, so that a slow server holds up nothing.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    in_background: ClassVar[bool] = True

    def open(self, run: RunPlace) -> Any:
        """Connects, before anything is written.

        Returns:
            What listens from here on: this, another `Listener`, or a Lightning logger.
        """
        return self

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        """Is called where a run begins, and not where it resumes.

        Args:
            hyperparameters: name -> value, nested.
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes a point of each curve: name -> value."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes a text, which is to be shown letter by letter."""

    def image(self, tag: str, image: Image, step: int) -> None:
        """Writes a picture: the bytes of a PNG, with its width and height."""

    def maps(self, record: AttentionRecord, step: int) -> None:
        """Writes attention maps: as numbers, as a picture, or both."""

    def flush(self) -> None:
        """Brings what was written to the file system; only called if there are `files`."""

    def finish(self, status: str | None) -> None:
        """Is called once, at the end; nothing is written afterwards.

        Args:
            status: one of `STATUSES`; None: unknown.
        """
