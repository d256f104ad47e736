"""Lets the model speak while it trains."""

from __future__ import annotations

from typing import Any

import lightning as L

from attnkit.tensorboard.logger import RunLogger
from attnkit.tensorboard.moments import log_moments


class Samples(L.Callback):
    """Writes what the task's `sample` returns to TensorBoard's Text page, letter by letter.

    Args:
        num_moments: how many moments: step 0, log-spaced steps, the last one; 1: the last one.
    """

    def __init__(self, num_moments: int) -> None:
        self.num_moments = num_moments
        self._moments: set[int] = set()
        self._logged = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settles the moments, and writes the first sample."""
        self._moments = {trainer.max_steps}
        if self.num_moments > 1:
            self._moments.update(log_moments(trainer.max_steps, self.num_moments))
        self._write(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Writes a sample if this step is one of the moments."""
        self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        if step not in self._moments or step <= self._logged or not trainer.is_global_zero:
            return
        self._logged = step
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.fenced("samples", module.sample(), step)  # pyright: ignore[reportCallIssue]
