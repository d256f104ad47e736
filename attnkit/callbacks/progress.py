"""Shows the progress of training: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from attnkit.callbacks.curves import TrainingCurves

BAR_SECONDS = 0.5
"""Seconds between updates of the bar."""

LINE_SECONDS = 10.0
"""Seconds between lines in a log."""


class TrainingProgress(L.Callback):
    """Step, loss, validation loss, tokens per second and remaining time.

    Args:
        curves: counts the tokens.
        label: text before the bar.
    """

    def __init__(self, curves: TrainingCurves, label: str) -> None:
        self.curves = curves
        self.label = label
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._said_compiling = False
        self._val: float | None = None
        self._shown = 0.0
        self._started = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._shown = time.monotonic()
        self._first_step = trainer.global_step
        self._begin(trainer, self.label, trainer.max_steps)
        clock = getattr(pl_module, "compile_clock", None)
        if clock is not None and trainer.is_global_zero:
            clock.tell = self._say_compiling

    def _begin(self, trainer: L.Trainer, label: str, total: int) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[words]}"),
                console=self.console,
                auto_refresh=False,
                expand=True,
            )
            self._bar.add_task(label, total=total, words="")
            self._bar.start()

    def _say_compiling(self) -> None:
        """Reports that the first step waits for the compiler; once in a log."""
        words = "compiling the model (trainer.compile), which the first steps wait for"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], words=words, refresh=True)
        elif not self._said_compiling:
            sys.stderr.write(f"{self.label}  {words}\n")
            sys.stderr.flush()
        self._said_compiling = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts to count the batches of the last evaluation."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._started = self._shown = time.monotonic()
            self._first_step = 0

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows the progress of the last evaluation, at most every few seconds."""
        now = time.monotonic()
        if trainer.state.fn != TrainerFn.VALIDATING or now - self._shown < self._patience:
            return
        self._shown, label = now, f"{self.label}, last evaluation"
        total = int(sum(trainer.num_val_batches))
        if self._bar is None:
            self._begin(trainer, label, total)
        if trainer.is_global_zero:
            words = [f"{batch_idx + 1:,}/{total:,} batches", self._left(batch_idx + 1, total)]
            self._tell(label, batch_idx + 1, words)

    @property
    def _patience(self) -> float:
        """Seconds between two updates."""
        return BAR_SECONDS if self.console.is_terminal else LINE_SECONDS

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Shows the progress, at most every few seconds."""
        now = time.monotonic()
        if now - self._shown < self._patience and trainer.global_step < trainer.max_steps:
            return
        if trainer.is_global_zero and trainer.global_step > self._first_step:
            self._shown = now
            loss = outputs["loss"]
            if loss.device.type == "cpu":
                weight = float(getattr(pl_module, "batch_weight", 1.0))
                shown = float(loss) * trainer.accumulate_grad_batches
                self._show(trainer, shown / weight if weight else shown)
            else:  # reading it would wait for the GPU: show the last point
                self._show(trainer, self.curves.loss)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reads the validation loss: here the device is idle."""
        if (val := trainer.callback_metrics.get("loss/val")) is not None:
            self._val = float(val)

    def _show(self, trainer: L.Trainer, loss: float | None) -> None:
        step = trainer.global_step
        words = [f"{step:,}/{trainer.max_steps:,}"]
        if loss is not None:
            words.append(f"loss {loss:.3f}")
        if self._val is not None:
            words.append(f"val {self._val:.3f}")
        if self.curves.tokens_per_second:
            words.append(f"{self.curves.tokens_per_second:,.0f} tokens/s")
        words.append(self._left(step, trainer.max_steps))
        self._tell(self.label, step, words)

    def _left(self, done: int, total: int) -> str:
        """The remaining time, in words."""
        elapsed = time.monotonic() - self._started
        left = elapsed / (done - self._first_step) * (total - done)
        return f"{timedelta(seconds=round(left))} left"

    def _tell(self, label: str, done: int, words: list[str]) -> None:
        if self._bar is None:
            sys.stderr.write(f"{label}  {'  '.join(words)}\n")
            sys.stderr.flush()
        else:
            self._bar.update(
                self._bar.task_ids[0], completed=done, words="  ".join(words), refresh=True
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
