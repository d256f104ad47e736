"""The base class of callbacks that do something costly at a few steps of a run."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from contextlib import nullcontext
from typing import Any

import lightning as L

log = logging.getLogger("attnkit")

MAX_MOMENTS = 200
"""TensorBoard keeps a random sample of a longer series, possibly without step 0."""


class AtMoments(L.Callback):
    """Calls `write` at chosen steps, once each, even if the run is resumed.

    Args:
        num_moments: number of moments: step 0, log-spaced steps, the last one; 1: the last one.
        every_n_steps: call it at multiples of this instead, and at the last step; required if the
            number of training steps is unknown.

    Attributes:
        is_guarded: report the first exception of `write` and continue training, as in every run of
            a recipe. Default: raise it.

    Raises:
        ValueError: if a number is below 1; when training starts, if `every_n_steps` is required and
            missing.
    """

    is_guarded = False

    def __init__(self, num_moments: int, every_n_steps: int | None = None) -> None:
        for name, number in (("num_moments", num_moments), ("every_n_steps", every_n_steps)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.num_moments = num_moments
        self.every_n_steps = every_n_steps
        self._moments: set[int] = set()
        self._last_written = -1
        self._has_failed = False

    @abstractmethod
    def write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        """Acts at a moment. Only the first process calls it."""

    def state_dict(self) -> dict[str, Any]:
        return {"written": self._last_written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_written = state_dict["written"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Chooses the moments, and acts at step 0, before the first update."""
        if self.every_n_steps is None and self.num_moments > 1:
            total = trainer.estimated_stepping_batches
            if math.isinf(total):
                raise ValueError(
                    "the number of training steps is not known in advance, so "
                    f"{type(self).__name__} needs every_n_steps (or the Trainer max_steps)"
                )
            self._moments = set(log_moments(int(total), self.num_moments))
        self._write_if_due(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._write_if_due(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Acts at the last step, also if training was stopped early."""
        self._moments.add(trainer.global_step)
        self._write_if_due(trainer, pl_module)

    def _write_if_due(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        every = self.every_n_steps
        is_moment = step in self._moments or (every is not None and step % every == 0)
        if not is_moment or step <= self._last_written:
            return
        self._last_written = step
        # All processes take part: with sharded weights, each contributes its shard.
        with getattr(module, "whole_weights", nullcontext)():
            if trainer.is_global_zero:
                self._try_to_write(trainer, module, step)

    def _try_to_write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        try:
            self.write(trainer, module, step)
        except Exception as error:
            if not self.is_guarded:
                raise
            if not self._has_failed:
                self._has_failed = True
                log.warning(
                    "%s failed at step %s: %s: %s; training continues, and further failures of it "
                    "are not reported",
                    type(self).__name__,
                    f"{step:,}",
                    type(error).__name__,
                    str(error).strip().partition("\n")[0],
                )


def log_moments(total_steps: int, count: int) -> list[int]:
    """Returns log-spaced steps at which to log, including 0 and the last one.

    Args:
        total_steps: steps of the whole run; the moment `total_steps` is after the last step.
        count: number of moments, 2 to `MAX_MOMENTS`; a run with fewer steps gets them all.

    Raises:
        ValueError: if `count` is out of range or `total_steps` is negative.
    """
    if total_steps < 0:
        raise ValueError(f"total_steps must be at least 0, got {total_steps}")
    if not 2 <= count <= MAX_MOMENTS:
        raise ValueError(f"count must be from 2 to {MAX_MOMENTS}, got {count}")
    steps = [0]
    while steps[-1] < total_steps and len(steps) < count:
        last, remaining = steps[-1], count - len(steps)
        # A new ratio each time spreads the early rounding over the remaining steps.
        ratio = (total_steps / max(last, 1)) ** (1 / remaining)
        step = total_steps if remaining == 1 else max(last + 1, round(last * ratio))
        steps.append(min(step, total_steps))
    return steps
