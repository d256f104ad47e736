"""Saves checkpoints: at which steps, and with which state in addition to Lightning's."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from attnkit.errors import CheckpointError, DivergedError
from attnkit.models.sharding import own_share
from attnkit.storage.lightning_io import NOTES, StoredCheckpoints
from attnkit.storage.run_directory import LAST


class Checkpoints(Checkpoint):
    """Saves after whole optimizer steps, when everything about the step has been logged.

    A validation that is due comes first, so that a run that resumes neither repeats nor skips it.
    Loggers are flushed before the checkpoint records the lengths of their files.

    Lightning calls it after all other callbacks, since it is a `Checkpoint`.

    Args:
        io: writes the checkpoints.
        periods: save at multiples of each of these numbers of steps, and at each validation.
        validate_every: steps between validations.
        logged_bytes: flushes the loggers and returns file name -> length.
    """

    def __init__(
        self,
        io: StoredCheckpoints,
        periods: Sequence[int] = (),
        *,
        validate_every: int,
        logged_bytes: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self.io = io
        self.logged_bytes = logged_bytes
        self.periods = periods
        self.validate_every = validate_every
        self._last_saved = -1
        self._loss: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the optimizer's state, and skips the checkpoint that the run resumed from.

        Raises:
            CheckpointError: if the state of the optimizer belongs to other weights.
        """
        self._last_saved = trainer.global_step
        skipped = getattr(getattr(pl_module, "bad_steps", None), "num_skipped", 0)
        for optimizer in trainer.optimizers:
            for one in getattr(optimizer, "parts", [optimizer]):
                _check_states(one, has_stepped=trainer.global_step > skipped)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves if a checkpoint is due but no validation, or if training stops here."""
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step % self.validate_every == 0:
            return
        if trainer.should_stop or any(step % period == 0 for period in self.periods):
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves after a validation that was due."""
        step = trainer.global_step
        if trainer.state.fn != TrainerFn.FITTING or step % self.validate_every:
            return
        loss = trainer.callback_metrics.get("loss/val")
        self._loss = float(loss) if loss is not None and math.isfinite(loss) else None
        self._save(trainer)
        self._loss = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the last step, and waits until it is on disk."""
        self._save(trainer)
        self.io.wait()
        if trainer.is_global_zero:
            self.io.store.tidy()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Waits for a checkpoint that is being written."""
        with contextlib.suppress(CheckpointError):  # the original exception is more important
            self.io.wait()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the notes of the store, and sets the loops to the end of a step."""
        checkpoint["loops"] = {"fit_loop": after_whole_step(checkpoint["loops"]["fit_loop"])}
        checkpoint[NOTES] = {"loss": self._loss, "event_bytes": self.logged_bytes()}

    def _save(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step == self._last_saved:
            return
        if (bad_steps := getattr(trainer.lightning_module, "bad_steps", None)) is not None:
            bad_steps.read()
        parameters = trainer.lightning_module.parameters()
        finite = [own_share(parameter).isfinite().all() for parameter in parameters]
        # Stacked, so that the host waits for the device once.
        all_finite = not finite or bool(torch.stack(finite).all())
        if not trainer.strategy.reduce_boolean_decision(all_finite):
            raise DivergedError(step, "the weights are")
        self._last_saved = step
        trainer.save_checkpoint(self.io.store.directory / LAST)


def _check_states(optimizer: torch.optim.Optimizer, *, has_stepped: bool) -> None:
    """Raises a `CheckpointError` if moments are missing or differ from their weights in shape."""
    has_moments = isinstance(optimizer, torch.optim.AdamW | torch.optim.Muon)
    if has_stepped and has_moments and not any(optimizer.state.values()):
        raise CheckpointError(
            "the checkpoint does not fit: it has no moments of the optimizer; restore it, or train "
            "the run again with --overwrite"
        )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                moment = optimizer.state.get(parameter, {}).get(name)
                shape = getattr(moment, "shape", ())
                if moment is not None and shape != parameter.shape:
                    raise CheckpointError(
                        f"the checkpoint does not fit: the optimizer's {name} has the shape "
                        f"{tuple(shape)} for a weight of {tuple(parameter.shape)}; restore "
                        "it, or train the run again with --overwrite"
                    )


def after_whole_step(fit_loop: dict[str, Any]) -> dict[str, Any]:
    """Sets the progress of Lightning's loops to between two batches of the only epoch.

    A checkpoint is taken inside hooks, where counters differ by one from hook to hook, and
    Lightning infers its position from them. In this state it always continues with the next batch.

    Args:
        fit_loop: state of the loop; modified in place.
    """
    batches = fit_loop["epoch_loop.batch_progress"]
    for counter in ("total", "current"):
        batches[counter]["completed"] = batches[counter]["processed"]
        epochs = fit_loop["epoch_progress"][counter]
        epochs |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation = fit_loop["epoch_loop.val_loop.batch_progress"][counter]
        validation |= dict.fromkeys(validation, 0)
    batches["is_last_batch"] = False
    return fit_loop
