"""Writes the curves of training: loss, learning rate, gradient norm, tokens per second."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor


class TrainingCurves(L.Callback):
    """Writes scalars every few steps, straight to the logger.

    `loss/train` is the mean over the steps since the last point, and over all processes. Tokens
    per second counts training alone: time in validation is left out.

    Args:
        every_n_steps: optimizer steps between points.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.num_tokens = 0
        self.seconds = 0.0
        self._loss_sum: Tensor | float = 0.0
        self._batches = 0
        self._window_tokens = 0
        self._window_seconds = 0.0
        self._mark = 0.0
        self._written = 0

    @property
    def tokens_per_second(self) -> float:
        """Mean over the whole run so far, over all processes."""
        return self.num_tokens / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock again."""
        self._mark = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self._count_time()

    def _count_time(self) -> None:
        now = time.perf_counter()
        self._window_seconds += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Adds the batch up, and writes a point if one is due."""
        self._loss_sum = (
            self._loss_sum + outputs["loss"].detach()
        )  # no .item(): a GPU need not wait
        self._batches += 1
        self._window_tokens += pl_module.num_tokens(batch) * trainer.world_size  # pyright: ignore
        step = trainer.global_step
        if step == self._written or (step % self.every_n_steps and step != trainer.max_steps):
            return
        self._write(trainer, pl_module, step)

    def _write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        # The loss comes first: reading it waits for the GPU, so that the time that follows is that
        # of work done.
        loss_sum = trainer.strategy.reduce(torch.as_tensor(self._loss_sum), reduce_op="mean")
        loss = float(loss_sum) / self._batches * trainer.accumulate_grad_batches
        if not math.isfinite(loss):
            raise FloatingPointError(f"the training loss is {loss} at step {step}")
        self._count_time()
        self.num_tokens += self._window_tokens
        self.seconds += self._window_seconds
        points = {
            "loss/train": loss,
            "optimizer/learning_rate": trainer.optimizers[0].param_groups[-1]["lr"],
            "speed/tokens_per_second": self._window_tokens / self._window_seconds,
        }
        if isinstance(norm := getattr(module, "gradient_norm", None), torch.Tensor):
            points["optimizer/gradient_norm"] = float(norm)
        for logger in trainer.loggers:
            logger.log_metrics(points, step)
        self._written = step
        self._loss_sum, self._batches = 0.0, 0
        self._window_tokens, self._window_seconds = 0, 0.0
