"""Writes what a run shows in TensorBoard."""

from __future__ import annotations

import atexit
import os
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from attnkit.tensorboard import summaries
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.event_files import (
    ResumePoint,
    cut_back,
    event_files,
    wait_for_a_later_name,
)
from attnkit.tensorboard.map_format import encode
from attnkit.tensorboard.tolerant_records import make_tolerant

LAYOUT = {
    # A tag a chart: so that the variants of a study are overlaid, and nothing else.
    "loss": {
        "validation": ("loss/val$",),
        "training": ("loss/train$",),
        "training, validation, n-gram floors": ("loss/.*",),
    },
    "speed": {"tokens per second": ("speed/.*",)},
}
"""Charts of the Custom Scalars page: category -> chart -> regular expressions of its tags."""

MOMENT_BYTES = 2**20
"""Above this, writing one logging moment takes a third of a second from the training process."""


class RunLogger(TensorBoardLogger):
    """A TensorBoard logger with one event file, directly in the run's directory.

    It differs from Lightning's in what TensorBoard then shows: no `epoch` and `hp_metric` cards, a
    table of hyperparameters with all columns and the real status, images and texts under the very
    tag that was given.

    How the run ended is written by `close` (or at the end of the process), not by `finalize`:
    Lightning finalizes after `fit` and again after `test`, and TensorBoard believes the first
    ending that it reads.

    Args:
        directory: where the event file goes.
        trial_id: what the runs of one trial, with different seeds, have in common: study and
            variant. TensorBoard shows about the first 15 letters.
        resume: where a run resumes; what was logged after that is removed, and the run goes on in
            a further event file. Without it, a directory that holds an event file is refused.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        trial_id: str,
        resume: ResumePoint | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.trial_id = trial_id
        self.resume = resume
        super().__init__(
            save_dir=self.directory.parent,
            name="",
            version=self.directory.name,
            default_hp_metric=False,
        )
        self._status: str | None = None
        self._closed = False
        self._has_hyperparameters = False
        self._has_layout = False
        self._last_steps: dict[str, int] = {}
        self._moment_step = -1
        self._moment_bytes = 0
        self._has_warned = False

    @property
    def log_dir(self) -> str:
        """The run's directory, as given: `~` and `$` in it are letters like others."""
        return str(self.directory)

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """PyTorch's writer; the first use makes the event file.

        Raises:
            FileExistsError: if the directory holds an event file and no `resume` was given.
            RuntimeError: if the logger was closed, since writing would make a second event file.
        """
        if self._closed:
            raise RuntimeError(
                f"the logger of {self.directory} is closed; make another, with a ResumePoint"
            )
        if self._experiment is None:
            self._experiment = self._open()
        return self._experiment

    def _open(self) -> SummaryWriter:
        if self.resume is not None:
            cut_back(self.directory, self.resume)
            wait_for_a_later_name(self.directory)
        elif files := event_files(self.directory):
            raise FileExistsError(
                f"{files[0]} exists: one directory, one run. Choose another directory, remove the "
                "file, or say where to resume"
            )
        # What a TensorBoard that is open has read of later steps, it forgets.
        purge_step = self.resume.step + 1 if self.resume and self.resume.event_bytes else None
        atexit.register(self.close)
        # With a short queue, training would wait for the checksums of every record with maps.
        writer = SummaryWriter(self.log_dir, purge_step=purge_step, max_queue=1000, flush_secs=15)
        make_tolerant(writer, self.log_dir)
        return writer

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes scalars, but for the `epoch` that Lightning adds to them."""
        for tag, value in metrics.items():
            if tag != "epoch":
                self.experiment.add_scalar(tag, float(value), step)

    @rank_zero_only
    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace,
        metrics: dict[str, Any] | None = None,
        step: int | None = None,
    ) -> None:
        """Writes the row of this run in the table of hyperparameters.

        Nested mappings become dotted names, and what is no number, boolean or text becomes JSON.
        Only the first call counts, as it would for TensorBoard: Lightning calls again with the
        hyperparameters that a module saved.

        Args:
            params: name -> value, possibly nested.
            metrics: scalars to write besides.
            step: the step of the metrics.
        """
        if not self._has_hyperparameters:
            self._has_hyperparameters = True
            values = vars(params) if isinstance(params, Namespace) else params
            self._write(summaries.session_start(values, self.trial_id), 0)
        self.log_metrics(metrics or {}, step)

    @rank_zero_only
    def text(self, tag: str, markdown: str, step: int) -> None:
        """Writes a text that TensorBoard renders as Markdown; what a model wrote goes to `fenced`.

        Raises:
            ValueError: if the tag was written at this step or a later one; so do the next three.
        """
        self._write_next(tag, summaries.text(tag, markdown), step)

    def fenced(self, tag: str, text: str, step: int) -> None:
        """Writes a text that is shown letter by letter, whatever Markdown or HTML it contains."""
        longest = max((len(run) for run in re.findall("`+", text)), default=0)
        fence = "`" * max(3, longest + 1)
        self.text(tag, f"{fence}\n{text}\n{fence}", step)

    @rank_zero_only
    def image_png(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Writes an image as the PNG that it is; width and height in pixels."""
        self._write_next(tag, summaries.image(tag, png, width, height), step)

    @rank_zero_only
    def maps(self, record: AttentionRecord, step: int) -> None:
        """Writes attention maps for the dashboard, under `record.tag`.

        Raises:
            MapFormatError: if the record cannot be encoded (see `map_format.encode`).
        """
        self._write_next(record.tag, summaries.maps(record.tag, encode(record)), step)

    @rank_zero_only
    def layout(self, charts: Mapping[str, Mapping[str, Sequence[str]]] = LAYOUT) -> None:
        """Writes, once, which curves the Custom Scalars page overlays.

        Args:
            charts: category -> chart -> regular expressions of the tags in it.
        """
        if self._has_layout:
            return
        self._has_layout = True
        self.experiment.add_custom_scalars(
            {
                category: {chart: ["Multiline", list(tags)] for chart, tags in entries.items()}
                for category, entries in charts.items()
            }
        )

    @rank_zero_only
    def save(self) -> None:
        """Brings to the disk what was logged; writes no `hparams.yaml`."""
        self.experiment.flush()

    def event_bytes(self) -> dict[str, int]:
        """Event file -> its length, with all that was logged up to now in it: what `ResumePoint`
        wants.
        """
        self.experiment.flush()
        return {file.name: file.stat().st_size for file in event_files(self.directory)}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Remembers how the run ended and brings everything to the disk; more may be logged.

        A run that failed or was aborted stays so, whatever ends well afterwards.

        Args:
            status: "success", "failed", "aborted", or "finished" (put back into a queue).

        Raises:
            ValueError: if the status is none of these.
        """
        if status not in summaries.STATUSES:
            known = ", ".join(summaries.STATUSES)
            raise ValueError(f"status {status!r} is unknown (known: {known})")
        if self._status in (None, "success"):
            self._status = status
        if self._experiment is not None and not self._closed:
            self._experiment.flush()

    @rank_zero_only
    def close(self) -> None:
        """Writes how the run ended, if it was finalized, and closes the event file.

        A second call does nothing; a later write is refused.
        """
        if self._closed:
            return
        if self._experiment is not None:
            if self._status is not None:
                self._write(summaries.session_end(self._status), 0)
            self._experiment.close()
        self._closed = True
        atexit.unregister(self.close)

    def _write_next(self, tag: str, summary: Any, step: int) -> None:
        """Writes a summary if its step is after the tag's last; else TensorBoard would hide it."""
        last = self._last_steps.get(tag, -1)
        if step <= last:
            raise ValueError(f"{tag}: step {step} comes after step {last}; steps must increase")
        self._last_steps[tag] = step
        self._write(summary, step)
        self._weigh(summary.ByteSize(), step)

    def _write(self, summary: Any, step: int) -> None:
        self.experiment._get_file_writer().add_summary(summary, step)

    def _weigh(self, size: int, step: int) -> None:
        """Warns, once, of a logging moment that holds up training."""
        self._moment_bytes = size + (self._moment_bytes if step == self._moment_step else 0)
        self._moment_step = step
        if self._moment_bytes > MOMENT_BYTES and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"more than {MOMENT_BYTES // 2**20} MiB logged at step {step}: TensorBoard's "
                "writer takes about 0.3 s a MiB from training. Log fewer or shorter examples",
                stacklevel=2,
            )
