"""Early ends of training: one error for each way in which training can end before its last step."""

from __future__ import annotations

import logging
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch

from attnkit.callbacks.stops import Stops, Terminated
from attnkit.errors import CheckpointError, DivergedError, UserError
from attnkit.hardware.devices import HardwareError
from attnkit.storage.checkpoint_store import CheckpointStore
from attnkit.storage.run_directory import PausedError
from attnkit.training.task import Task

log = logging.getLogger("attnkit")

_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")
_PEER_LOST = re.compile(
    "connection (closed|reset)|broken pipe|gloo|nccl|recvbytes|remote process|tcpstore|heartbeat",
    re.IGNORECASE,
)


class OutOfMemoryError(UserError):
    """A step needs more memory than there is; the message names the batch and what to lower."""


class ProcessLostError(UserError):
    """Another process of the run has ended, and this one cannot continue without it."""

    exit_code = 1


@contextmanager
def explained_ends(
    trainer: L.Trainer, task: Task, store: CheckpointStore, directory: Path
) -> Iterator[None]:
    """Raises a specific error for each early end of the block; it names the last checkpoint and the
    remedy.

    Lightning turns Ctrl-C into `SystemExit(1)` and ignores every later one, even in a Python
    session. If one process has ended, the others fail with a broken connection.

    Args:
        trainer: runs in the block.
        task: the task that it trains.
        store: the checkpoints of the run.
        directory: directory of the run.

    Raises:
        KeyboardInterrupt: after SIGINT.
        SystemExit: after SIGTERM, with the code 143.
        PausedError: at the step at which the run pauses.
        DivergedError: if the loss, the gradient or the weights are not finite.
        OutOfMemoryError: if a step did not fit into memory.
        HardwareError: if `trainer.deterministic` is set and a kernel is not deterministic.
        ProcessLostError: if another process of the run has ended.
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    messages = _Messages(trainer, task, store, directory)
    try:
        yield
    except PausedError:
        messages.aborted()
        raise
    except Terminated:
        messages.aborted()
        if trainer.is_global_zero:
            log.warning("terminated %s", messages.where())
        raise SystemExit(128 + signal.SIGTERM) from None
    except (KeyboardInterrupt, SystemExit):
        if trainer.interrupted:
            signal.signal(signal.SIGINT, on_interrupt)
        messages.aborted()
        raise KeyboardInterrupt(messages.where()) from None
    except DivergedError as error:
        raise DivergedError(error.step, error.where, messages.against_divergence()) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemoryError(messages.against_lack_of_memory()) from error
    except RuntimeError as error:
        if _OUT_OF_MEMORY.search(str(error)):
            raise OutOfMemoryError(messages.against_lack_of_memory()) from error
        if found := _NOT_DETERMINISTIC.search(str(error)):
            raise HardwareError(
                f"trainer.deterministic: {found[1]} has no deterministic kernel here; use another "
                "mechanism, mask or position, or set it to false"
            ) from error
        if trainer.world_size > 1 and _PEER_LOST.search(f"{type(error).__name__} {error}"):
            raise ProcessLostError(messages.against_lost_process()) from error
        raise


@contextmanager
def restoring(checkpoint: Path | None, stops: Stops) -> Iterator[None]:
    """Raises the same error for all failures while a checkpoint is restored.

    Raises:
        CheckpointError: if the checkpoint does not fit.
    """
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if checkpoint is None or stops.has_begun:
            raise
        words = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint} does not fit this run: {type(error).__name__}: {words}; restore it, or "
            "train the run again with --overwrite"
        ) from error


class _Messages:
    """Messages about an early end, with the last checkpoint and the remedy."""

    def __init__(
        self, trainer: L.Trainer, task: Task, store: CheckpointStore, directory: Path
    ) -> None:
        self.trainer = trainer
        self.task = task
        self.store = store
        self.directory = directory

    def aborted(self) -> None:
        """Sets the status of the loggers."""
        for logger in self.trainer.loggers:
            logger.finalize("aborted")

    def where(self) -> str:
        """The step, the validation loss, the checkpoint, and the command to resume."""
        loss = self.trainer.callback_metrics.get("loss/val")
        measured = f", validation loss {float(loss):.4f}" if loss is not None else ""
        return (
            f"at step {self.trainer.global_step:,}{measured}; {self._checkpoint()}. Continue with: "
            f"{self._resume()}"
        )

    def against_divergence(self) -> str:
        """The remedies."""
        rate = max(options["lr"] for options in self.task.group_options) / 3
        return (
            f"{self._checkpoint()}. Lower the learning rate: {self._resume()} "
            f"optimizer.lr={rate:.2g} --allow-changes; or set trainer.gradient_clip, or "
            "trainer.on_nan=skip"
        )

    def against_lack_of_memory(self) -> str:
        """The batch that did not fit, and the keys that decide its size."""
        batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
        shape = self.task.batch_shape
        size = f" of {shape[0]:,} sequences of {shape[1]:,} tokens" if len(shape) > 1 else ""
        batch_key, length_key = self.task.size_keys
        graphs = ""
        if self.task.replays:
            graphs = ", or set trainer.compile=without_cuda_graphs, which keeps fewer buffers"
        return (
            f"out of memory in batch {batch:,}{size} (step "
            f"{self.trainer.global_step + 1:,}): lower {batch_key} and raise "
            f"trainer.accumulate by the same factor, which trains equally, or lower {length_key}"
            f"{graphs}; {self._checkpoint()}"
        )

    def against_lost_process(self) -> str:
        """Another process has failed, not this one."""
        return (
            f"another of the {self.trainer.world_size} processes has ended (killed, or out of "
            f"memory?) at step {self.trainer.global_step:,}; {self._checkpoint()}. Continue with: "
            f"{self._resume()}"
        )

    def _resume(self) -> str:
        return f"attnkit resume {shlex.quote(str(self.directory))}"

    def _checkpoint(self) -> str:
        steps = self.store.steps()
        if not steps:
            return "there is no checkpoint yet"
        return f"the last checkpoint is from step {steps[-1]:,}"
