"""TensorBoard: one event file, directly in the run's directory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnkit.listeners.listener import STATUSES, Listener
from attnkit.tensorboard import summaries
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.event_files import EVENT_FILES, ResumePoint, event_files
from attnkit.tensorboard.event_writer import EventWriter
from attnkit.tensorboard.images import Image, contact_sheet
from attnkit.tensorboard.map_format import encode

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LAYOUT = {
    # One tag per chart, so that only the variants of a study are overlaid.
    "loss": {
        "validation": ("loss/val$",),
        "training": ("loss/train$",),
        "training, validation, n-gram floors": ("loss/train$", "loss/val$", "text_floors/.*"),
    },
    "speed": {"tokens per second": ("speed/.*",)},
}
"""Charts of the Custom Scalars page: category -> chart -> regular expressions of its tags."""

FINAL = "final/"
"""Prefix of the names of a run's final metrics."""

MOMENT_BYTES = 2**20
"""Above this, writing one logging moment takes a third of a second from the training process."""


class EventFile(Listener):
    """Writes a run for TensorBoard: scalars, texts and images under the given tags, a row in the
    table of hyperparameters with the final status, and the maps of the Attention page.

    Args:
        directory: folder of the event file.
        trial_id: study and variant, which all seeds of a trial share. TensorBoard shows about the
            first 15 letters. None: no row in the table of hyperparameters.
        varied: keys in which the variants of the run's study differ, the only ones in its row of
            the table of hyperparameters; None: all.
        resume: where a run resumes, in an additional event file; the existing ones must be cut back
            already. Without it, a directory with an event file is refused.

    Raises:
        FileExistsError: if the directory contains an event file, and `resume` is None.
        OSError: if the file cannot be created.
    """

    files = (EVENT_FILES,)

    def __init__(
        self,
        directory: Path,
        *,
        trial_id: str | None,
        varied: Sequence[str] | None = None,
        resume: ResumePoint | None = None,
    ) -> None:
        self.directory = directory
        self.trial_id = trial_id
        self.varied = varied
        if resume is None and (files := event_files(directory)):
            raise FileExistsError(
                f"{files[0]} exists, and a directory holds one run. Choose another directory, "
                "remove the file, or pass `resume`"
            )
        # An open TensorBoard discards later steps that it has read.
        forget_from = resume.step + 1 if resume is not None and resume.event_bytes else None
        self._writer = EventWriter(directory, forget_from)
        self._experiment: SummaryWriter | None = None
        self._last_steps: dict[str, int] = {}
        self._moment_step = -1
        self._moment_bytes = 0
        self._has_warned = False

    @property
    def experiment(self) -> SummaryWriter:
        """PyTorch's writer to the same file, for data without a method here, such as histograms."""
        if self._experiment is None:
            from attnkit.listeners.summary_writer import SharedSummaryWriter

            self._experiment = SharedSummaryWriter(self._writer)
        return self._experiment

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        """Writes the run's row in the table of hyperparameters, and the layout of the Custom
        Scalars page. A value that is not a number, boolean or text becomes JSON; a null is left
        out.
        """
        flat = summaries.flatten(hyperparameters)
        if self.varied is not None:
            flat = {key: value for key, value in flat.items() if _is_varied(key, self.varied)}
        if self.trial_id is not None:
            self._write(summaries.session_start(flat, self.trial_id), 0)
        self._write(summaries.layout(LAYOUT), 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes points of curves. A final metric becomes a line from step 0 to here, under a tag
        beside its curve: `loss/final`, `quality/final_accuracy`.
        """
        for tag, value in values.items():
            name, steps = (final_tag(tag), (0, step)) if tag.startswith(FINAL) else (tag, (step,))
            for at in dict.fromkeys(steps):
                self._write(summaries.scalar(name, float(value)), at)

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes a text that is shown verbatim, whatever Markdown or HTML it contains.

        Raises:
            ValueError: if the tag was written at this step or a later one; `image` and `maps`
                raise it too.
        """
        self._write_next(tag, summaries.text(tag, summaries.fenced(text)), step)

    def image(self, tag: str, image: Image, step: int) -> None:
        self._write_next(tag, summaries.image(tag, *image), step)

    def maps(self, record: AttentionRecord, step: int) -> None:
        """Writes an image, and the numbers for the Attention page under `record.tag`.

        Raises:
            MapFormatError: if the record cannot be encoded (see `map_format.encode`).
        """
        self._write_next(record.tag, summaries.maps(record.tag, encode(record)), step)
        self.image(record.picture_tag, contact_sheet(record, step), step)

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, status: str | None) -> None:
        """Writes the status of the run, if it is known, and closes the file.

        Raises:
            ValueError: if the status is none of `STATUSES`.
        """
        if status not in (None, *STATUSES):
            raise ValueError(f"status {status!r} is unknown (known: {', '.join(STATUSES)})")
        if status is not None and self.trial_id is not None:
            self._write(summaries.session_end(status), 0)
        self._writer.close()

    def _write_next(self, tag: str, summary: Any, step: int) -> None:
        """Writes a summary; TensorBoard would hide one whose step is not after the tag's last."""
        last = self._last_steps.get(tag, -1)
        if step <= last:
            raise ValueError(f"{tag}: step {step} comes after step {last}; steps must increase")
        self._last_steps[tag] = step
        self._write(summary, step)
        self._check_size(summary.ByteSize(), step)

    def _write(self, summary: Any, step: int) -> None:
        self._writer.add_summary(summary, step)

    def _check_size(self, size: int, step: int) -> None:
        """Warns once if a logging moment delays training."""
        self._moment_bytes = size + (self._moment_bytes if step == self._moment_step else 0)
        self._moment_step = step
        if self._moment_bytes > MOMENT_BYTES and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"more than {MOMENT_BYTES // 2**20} MiB logged at step {step}: TensorBoard's "
                "writer delays training by about 0.3 s per MiB. Log fewer or shorter examples",
                stacklevel=2,
            )


def final_tag(name: str) -> str:
    """Returns the tag of a final metric: `loss/final` for `final/loss`.

    TensorBoard sorts tags by name everywhere. Charts of the loss are first on its pages of scalars,
    and the final loss is before the other final metrics in the table of hyperparameters.
    """
    metric = name.removeprefix(FINAL)
    return "loss/final" if metric == "loss" else f"quality/final_{metric}"


def _is_varied(key: str, varied: Sequence[str]) -> bool:
    """True for a key that is varied, is inside a varied key, or is a list that contains one."""
    return any(
        key == other or key.startswith(f"{other}.") or other.startswith(f"{key}[")
        for other in varied
    )
