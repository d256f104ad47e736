"""How training can end before its last step, and the error that says so."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

log = logging.getLogger("attnkit")


class DivergedError(Exception):
    """Training went wrong for good: the weights are no finite numbers any more.

    Args:
        step: where it was noticed.
    """

    def __init__(self, step: int) -> None:
        super().__init__(
            f"training has diverged: at step {step:,} the weights hold NaN or infinity; "
            "lower optimizer.lr, or set trainer.gradient_clip"
        )


@contextmanager
def plain_endings(trainer: L.Trainer, model: nn.Module, directory: Path) -> Iterator[None]:
    """Gives each early ending of what runs inside its own error.

    Lightning turns Ctrl-C into `SystemExit(1)` and has the process ignore every further one, which
    would make a Python session deaf to it; SIGTERM becomes a `SystemExit` that looks like success.

    Args:
        trainer: what runs inside.
        model: what it trains.
        directory: where the run lies.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the message says what is left behind.
        SystemExit: after SIGTERM, with the code 143.
        DivergedError: if the weights are no finite numbers at the end, or when something failed.
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        log.warning("terminated %s", _left_behind(trainer, directory))
        raise SystemExit(128 + signal.SIGTERM) from None
    except (KeyboardInterrupt, SystemExit):
        if trainer.interrupted:
            signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt(_left_behind(trainer, directory)) from None
    except Exception as error:
        if is_finite(model):
            raise
        raise DivergedError(trainer.global_step) from error
    if not is_finite(model):
        raise DivergedError(trainer.global_step)


def is_finite(model: nn.Module) -> bool:
    """True if all weights are finite numbers."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def _left_behind(trainer: L.Trainer, directory: Path) -> str:
    return (
        f"at step {trainer.global_step:,}; {directory} holds an unfinished run, which --overwrite "
        "replaces"
    )
