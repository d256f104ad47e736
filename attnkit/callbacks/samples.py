"""Logs samples of the model while it trains."""

from __future__ import annotations

import lightning as L

from attnkit.callbacks.at_moments import AtMoments
from attnkit.listeners.lightning import Listeners


class Samples(AtMoments):
    """Logs the task's `sample` as text.

    Args:
        num_moments: number of moments: step 0, log-spaced steps, the last one; 1: the last one.
    """

    def __init__(self, *, num_moments: int = 3) -> None:
        super().__init__(num_moments)

    def write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        sample = module.sample()  # pyright: ignore[reportCallIssue]
        if sample:  # empty for a task without samples
            Listeners(trainer.loggers).text("samples", sample, step)
