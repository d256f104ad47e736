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
    """Shows step, loss, validation loss, tokens per second and remaining time.

    Args:
        curves: counts the tokens.
        label: text before the bar.
    """

    def __init__(self, curves: TrainingCurves, label: str) -> None:
        self.curves = curves
        self.label = label
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._has_reported_compiling = False
        self._val_loss: float | None = None
        self._last_update = 0.0
        self._started = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._last_update = time.monotonic()
        self._first_step = trainer.global_step
        self._begin(trainer, self.label, trainer.max_steps)
        clock = getattr(pl_module, "compile_clock", None)
        if clock is not None and trainer.is_global_zero:
            clock.tell = self._report_compiling

    def _begin(self, trainer: L.Trainer, label: str, total: int) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[texts]}"),
                console=self.console,
                auto_refresh=False,
                expand=True,
            )
            self._bar.add_task(label, total=total, texts="")
            self._bar.start()

    def _report_compiling(self) -> None:
        """Reports that the first steps wait for the compiler; only once in a log."""
        texts = "compiling the model (trainer.compile); the first steps wait for it"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], texts=texts, refresh=True)
        elif not self._has_reported_compiling:
            sys.stderr.write(f"{self.label}  {texts}\n")
            sys.stderr.flush()
        self._has_reported_compiling = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts counting the batches of the last evaluation."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._started = self._last_update = time.monotonic()
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
        if trainer.state.fn != TrainerFn.VALIDATING or now - self._last_update < self._interval:
            return
        self._last_update, label = now, f"{self.label}, last evaluation"
        total = int(sum(trainer.num_val_batches))
        if self._bar is None:
            self._begin(trainer, label, total)
        if trainer.is_global_zero:
            texts = [f"{batch_idx + 1:,}/{total:,} batches", self._time_left(batch_idx + 1, total)]
            self._print(label, batch_idx + 1, texts)

    @property
    def _interval(self) -> float:
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
        if now - self._last_update < self._interval and trainer.global_step < trainer.max_steps:
            return
        if trainer.is_global_zero and trainer.global_step > self._first_step:
            self._last_update = now
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
            self._val_loss = float(val)

    def _show(self, trainer: L.Trainer, loss: float | None) -> None:
        step = trainer.global_step
        texts = [f"{step:,}/{trainer.max_steps:,}"]
        if loss is not None:
            texts.append(f"loss {loss:.3f}")
        if self._val_loss is not None:
            texts.append(f"val {self._val_loss:.3f}")
        if self.curves.tokens_per_second:
            texts.append(f"{self.curves.tokens_per_second:,.0f} tokens/s")
        texts.append(self._time_left(step, trainer.max_steps))
        self._print(self.label, step, texts)

    def _time_left(self, done: int, total: int) -> str:
        """Returns the remaining time as text."""
        elapsed = time.monotonic() - self._started
        left = elapsed / (done - self._first_step) * (total - done)
        return f"{timedelta(seconds=round(left))} left"

    def _print(self, label: str, done: int, texts: list[str]) -> None:
        if self._bar is None:
            sys.stderr.write(f"{label}  {'  '.join(texts)}\n")
            sys.stderr.flush()
        else:
            self._bar.update(
                self._bar.task_ids[0], completed=done, texts="  ".join(texts), refresh=True
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
