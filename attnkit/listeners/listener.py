"""The interface of a run's loggers: TensorBoard, files and servers. Imports nothing heavy."""

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
"""Lightning's names of how a run ends; `finished`: put back into a cluster's queue."""


@dataclass(frozen=True)
class RunInfo:
    """The run that is logged.

    Attributes:
        directory: directory of the run.
        name: name of the recipe.
        variant: name of the variant.
        seed: seed of the run.
        runs_dir: folder of all runs.
        resume: where the run resumes; None: it begins.
    """

    directory: Path
    name: str = "run"
    variant: str = "base"
    seed: int = 0
    runs_dir: Path = field(default_factory=Path)
    resume: ResumePoint | None = None

    def recall(self, logger: str) -> str | None:
        """Returns the id that a server gave to this run, if `remember` stored one."""
        file = self.directory / LOGGER_IDS / logger
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None

    def remember(self, logger: str, run_id: str) -> None:
        """Stores the id that a server gave to this run, so that a resumed run uses it again."""
        folder = self.directory / LOGGER_IDS
        folder.mkdir(exist_ok=True)
        (folder / logger).write_text(f"{run_id}\n", encoding="utf-8")


LOGGER_IDS = "logger_ids"
"""Folder in a run's directory: a file per server, with the id of the run on it."""


class Listener:
    """Base class of loggers. Each method does nothing unless a subclass overrides it.

    Only the first process of a run calls them. An exception is reported once, and training
    continues. A plugin registers a subclass in `LOGGERS`; its keyword-only parameters are the keys
    of its entry in a recipe's `logging.to`.

    Attributes:
        packages: packages that it needs, as `pip install` takes them.
        files: patterns of the files that it appends to, directly in the run's directory. A run
            that resumes truncates them to the length that they had at its checkpoint.
        in_background: call the methods in a thread, so that a slow server does not delay a step. A
            listener with `files` is never called in a thread.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    in_background: ClassVar[bool] = True

    def open(self, run: RunInfo) -> Any:
        """Opens the file or the connection.

        Args:
            run: the run that is logged.

        Returns:
            The logger to call: another `Listener`, or a Lightning logger; None: this one.
        """

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        """Called when a run begins, not when it resumes.

        Args:
            hyperparameters: name -> value, nested.
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs scalars, name -> value."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Logs a text, to be shown verbatim."""

    def image(self, tag: str, image: Image, step: int) -> None:
        """Logs a PNG image."""

    def maps(self, record: AttentionRecord, step: int) -> None:
        """Logs attention maps, as numbers, as an image, or both."""

    def flush(self) -> None:
        """Writes buffered data to files. Called before each checkpoint, if there are `files`."""

    def finish(self, status: str | None) -> None:
        """Closes the logger; called once.

        Args:
            status: one of `STATUSES`; None: unknown.
        """
