"""Writes the curves of training: loss, learning rate, gradient norm, tokens per second."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from attnkit.errors import DivergedError

_STATE = "training_curves"
"""Key of the sums in a checkpoint."""


class Speed(NamedTuple):
    """A number of tokens and the seconds that they took."""

    tokens: int = 0
    seconds: float = 0.0


class TrainingCurves(L.Callback):
    """Logs scalars every few steps.

    `loss/train` is the mean over the steps since the last point, and over all processes. For a task
    with several losses it is the mean of their sum, and `loss/train_NAME` the mean of each. Tokens
    per second counts training only, without validation and compilation, and only the current
    session: an earlier one may have run on another machine. A step that the task skipped
    (`Task.is_skipped`) counts as time and tokens, but not in the loss. Nothing is read from the
    device between two points.

    Args:
        every_n_steps: optimizer steps between points.

    Attributes:
        loss: of the last point, nats per token; None before the first.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.loss: float | None = None
        self.num_tokens = 0
        self.seconds = 0.0
        self._step_sum: Any = 0.0  # of the current step
        self._loss_sum: Tensor | float = 0.0
        self._steps: Tensor | int = 0
        self._window_tokens = 0
        self._window_seconds = 0.0
        self._session = Speed()
        self._previous_session = Speed()
        self._carried = Speed()  # part of the current window from before this session
        self._mark = 0.0
        self._previous_wall_seconds = 0.0
        self._wall_start: float | None = None
        self._last_step = 0
        self._clock: Any = None  # the task's `CompileClock`
        self._compiling = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Mean of this session, over all processes; before the first point, that of the previous
        session.
        """
        speed = self._session if self._session.seconds else self._previous_session
        return speed.tokens / speed.seconds if speed.seconds else 0.0

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run, including those since the last point."""
        return self.num_tokens + self._window_tokens

    @property
    def wall_seconds(self) -> float:
        """Seconds of the whole run so far, including validation and logging."""
        running = 0.0 if self._wall_start is None else time.perf_counter() - self._wall_start
        return self._previous_wall_seconds + running

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves the sums since the last point, of each process."""
        self._count_time()
        loss_sum = torch.as_tensor(self._loss_sum, device=pl_module.device)
        sums = [torch.empty_like(loss_sum) for _ in range(trainer.world_size)]
        if trainer.world_size > 1:
            torch.distributed.all_gather(sums, loss_sum)
        else:
            sums = [loss_sum]
        checkpoint[_STATE] = {
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
            "loss_sums": torch.stack(sums).cpu(),
            "steps": int(self._steps),
            "window_tokens": self._window_tokens,
            "window_seconds": self._window_seconds,
            "session": [*(self._session if self._session.seconds else self._previous_session)],
            "wall_seconds": self.wall_seconds,
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores the sums; if the number of processes changed, each takes their mean."""
        state = checkpoint[_STATE]
        self.num_tokens, self.seconds = state["num_tokens"], state["seconds"]
        sums = state["loss_sums"]
        same_processes = len(sums) == trainer.world_size
        self._loss_sum = sums[trainer.global_rank] if same_processes else sums.mean(dim=0)
        self._steps = state["steps"]
        self._window_tokens = state["window_tokens"]
        self._window_seconds = state["window_seconds"]
        self._carried = Speed(self._window_tokens, self._window_seconds)
        self._previous_session = Speed(*state.get("session", ()))
        self._previous_wall_seconds = state["wall_seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_step = trainer.global_step
        self._clock = getattr(pl_module, "compile_clock", None)
        self._compiling = getattr(self._clock, "seconds", 0.0)
        if isinstance(self._loss_sum, Tensor):
            self._loss_sum = self._loss_sum.to(pl_module.device)
        self._mark = self._wall_start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock of the whole run, and counts the steps since the last point."""
        self._count_time()
        self._session = self._with_window()
        self._previous_wall_seconds, self._wall_start = self.wall_seconds, None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark, self._compiling = time.perf_counter(), getattr(self._clock, "seconds", 0.0)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count_time()

    def _count_time(self) -> None:
        now, compiling = time.perf_counter(), getattr(self._clock, "seconds", 0.0)
        self._window_seconds += now - self._mark - (compiling - self._compiling)
        self._mark, self._compiling = now, compiling

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Adds the batch to the sums, and logs a point if one is due."""
        # No .item(), which would wait for the GPU. Lightning has divided by the batches of a step.
        loss = outputs.get("curves")  # a task with several losses: their sum, then each
        self._step_sum = self._step_sum + (outputs["loss"].detach() if loss is None else loss)
        self._window_tokens += pl_module.num_tokens(batch) * trainer.world_size  # pyright: ignore
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if getattr(self._loss_sum, "shape", self._step_sum.shape) != self._step_sum.shape:
            self._loss_sum, self._steps = 0.0, 0  # resumed with other losses
        skipped = getattr(pl_module, "is_skipped", False)
        if isinstance(skipped, Tensor):  # known only on the device
            self._loss_sum = self._loss_sum + self._step_sum.masked_fill(skipped, 0.0)
            self._steps = self._steps + ~skipped
        elif not skipped:
            self._loss_sum = self._loss_sum + self._step_sum
            self._steps += 1
        self._step_sum = 0.0
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            self._write(trainer, pl_module, step)

    def _with_window(self) -> Speed:
        """This session, with its part of the current window."""
        return Speed(
            self._session.tokens + self._window_tokens - self._carried.tokens,
            self._session.seconds + self._window_seconds - self._carried.seconds,
        )

    def _write(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        # First, since it waits for the GPU: the time below is then that of finished work.
        if (bad_steps := getattr(module, "bad_steps", None)) is not None:
            bad_steps.read()
        loss_sum = trainer.strategy.reduce(torch.as_tensor(self._loss_sum), reduce_op="mean")
        steps = int(self._steps)
        means = [x / steps for x in loss_sum.reshape(-1).tolist()] if steps else []
        loss = means[0] if means else None
        if loss is not None and not math.isfinite(loss):
            raise DivergedError(step, "the training loss is")
        self._count_time()
        self.num_tokens += self._window_tokens
        self.seconds += self._window_seconds
        self._session, self._carried = self._with_window(), Speed()
        self.loss = loss if loss is not None else self.loss
        names = [
            "loss/train",
            *(f"loss/train_{name}" for name in getattr(module, "loss_names", ())),
        ]
        points = dict(zip(names, means, strict=False))
        points |= {
            "optimizer/learning_rate": trainer.optimizers[0].param_groups[-1]["lr"],
            "speed/tokens_per_second": self._window_tokens / max(self._window_seconds, 1e-9),
        }
        if isinstance(norm := getattr(module, "gradient_norm", None), torch.Tensor):
            points["optimizer/gradient_norm"] = float(norm)
        for logger in trainer.loggers:
            logger.log_metrics(points, step)
        self._loss_sum, self._steps = 0.0, 0
        self._window_tokens, self._window_seconds = 0, 0.0
