"""Stops training early and cleanly: on a signal, at a given step, or when its time is up."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

log = logging.getLogger("attnkit")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TIME_IS_UP = 1000  # larger than any signal's number


class Terminated(SystemExit):
    """SIGTERM arrived while no training step was running."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Stops(L.Callback):
    """Stops training after the current step: on SIGINT, on SIGTERM, at the step `until`, or after
    `max_time`.

    After the first signal the step is finished and saved by `Checkpoints`; a validation comes first
    only if it is due at that step. A second signal, or one outside of training, stops at once.

    All processes of a run stop after the same step, also if a signal reached only one of them.

    Args:
        max_time: seconds of training in this process; None: no limit.
        until: step at which to pause; the rest of the schedule can be resumed; None: the last.
    """

    def __init__(self, max_time: float | None = None, until: int | None = None) -> None:
        self.max_time = max_time
        self.until = until
        self.is_paused = False
        self.signal: int | None = None
        self.time_is_up = False
        self.has_begun = False
        self._received = 0
        self._deadline = float("inf")
        self._training = False
        self._previous_handlers: dict[int, Any] = {}
        self._pending: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def raise_if_signalled(self) -> None:
        """Ends the run after training, if a signal stopped it.

        Raises:
            KeyboardInterrupt: after SIGINT.
            Terminated: after SIGTERM.
        """
        if self.signal is not None:
            raise _ending(self.signal)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Installs the signal handlers, and starts the clock."""
        self._training = self.has_begun = True
        self._install_handlers()
        # Replaces Lightning's agreement on SIGTERM, which costs a message per batch.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing
        if self.max_time is not None:
            self._deadline = time.monotonic() + self.max_time

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handles signals in the final validation too, where Lightning would ignore SIGTERM."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._install_handlers()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Makes Lightning stop if this was the last batch of a step and there is a reason."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.should_stop:
            return
        # All processes count the same steps, so they need not exchange this.
        if self.until is not None and self.until <= trainer.global_step < trainer.max_steps:
            self.is_paused = trainer.should_stop = True
            self._skip_validation(trainer)
            return
        reason = self._received or (_TIME_IS_UP if time.monotonic() >= self._deadline else 0)
        if trainer.world_size > 1:
            reason = self._maximum_over_processes(reason, pl_module.device)
        if reason:
            self.time_is_up = reason == _TIME_IS_UP
            self.signal = None if self.time_is_up else reason
            trainer.should_stop = True
            if self.signal is not None:
                self._skip_validation(trainer)

    def _skip_validation(self, trainer: L.Trainer) -> None:
        """Skips the validation that Lightning does where training stops, unless one is due at this
        step: a resumed run would lack it.
        """
        batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if batches % int(trainer.val_check_batch or 1):
            trainer.limit_val_batches = 0
        elif trainer.is_global_zero and not self.is_paused:
            log.warning(
                "a validation is due at this step and comes first; another signal stops at once"
            )

    def _maximum_over_processes(self, reason: int, device: torch.device) -> int:
        """Returns the maximum over all processes. On a GPU it is that of the previous step, which
        has arrived by now: the host would have to wait for that of this step.
        """
        maximum = torch.full((), reason, device=device)
        torch.distributed.all_reduce(maximum, torch.distributed.ReduceOp.MAX)
        if device.type != "cuda":
            return int(maximum)
        previous, arrived = self._pending, torch.cuda.Event()
        self._pending = (maximum.to("cpu", non_blocking=True), arrived)
        arrived.record()
        if previous is None:
            return 0
        previous[1].synchronize()
        return int(previous[0])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes the next signal stop at once."""
        self._training = False

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restores the previous signal handlers."""
        self._training = False
        for number, handler in self._previous_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous_handlers = {}

    def _install_handlers(self) -> None:
        if self._previous_handlers:
            return
        try:
            self._previous_handlers = {
                number: signal.signal(number, self._handle_signal)
                for number in SIGNALS
                if signal.getsignal(number) != signal.SIG_IGN  # nohup remains in effect
            }
        except ValueError:  # not the main thread, where signals cannot be handled
            self._previous_handlers = {}

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self._training and not self._received:
            self._received = number
            log.warning(
                "%s: stopping after this step; another signal stops at once",
                signal.Signals(number).name,
            )
            return
        raise _ending(number)


def _do_nothing() -> None:
    pass


def _ending(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()
