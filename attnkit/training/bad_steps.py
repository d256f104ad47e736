"""Steps that must not be taken, because their loss or gradient is not finite."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.optim import Optimizer

from attnkit.errors import DivergedError
from attnkit.hardware.devices import has_several_processes

log = logging.getLogger("attnkit")


class BadSteps:
    """Counts bad steps, and ends training at the first one that may not be skipped.

    Reading a number from a GPU waits for all work before it. So there the optimizer itself leaves
    the step out (`leave_out`), the counts stay on the device, and `read` looks at them where the
    host waits anyway. After a bad step that may not be skipped all further ones are left out too,
    so that the weights are unchanged when it is reported.

    Attributes:
        max_skipped: how many steps may be skipped; 0: none.
        num_skipped: how many were, as far as the host knows.
    """

    def __init__(self) -> None:
        self.max_skipped = 0
        self.num_skipped = 0
        self._count: Tensor | None = None  # bad steps of this session, on the device
        self._steps: Tensor | None = None  # their numbers, up to the one that ends it; 0: not yet
        self._num_read = 0

    def skip(self, step: int) -> None:
        """Counts a bad step that the host has seen.

        Raises:
            DivergedError: if no more may be skipped.
        """
        if self.num_skipped >= self.max_skipped:
            raise DivergedError(step, "the loss or its gradient is")
        self.num_skipped += 1
        log.warning(
            "step %s: the loss or its gradient is not finite; skipped (%s of at most %s)",
            f"{step:,}",
            self.num_skipped,
            self.max_skipped,
        )

    def leave_out(self, step: int, is_bad: Tensor, optimizer: Optimizer) -> Tensor:
        """Makes an optimizer that `can_leave_out` skip the step if it is bad, without waiting.

        Args:
            step: its number, from 1.
            is_bad: () boolean, the same on all processes.
            optimizer: what is about to step.

        Returns:
            () boolean: the step is left out.
        """
        if self._count is None or self._steps is None:
            device = is_bad.device
            room = max(self.max_skipped - self.num_skipped, 0) + 1
            self._count = torch.zeros((), dtype=torch.int64, device=device)
            self._steps = torch.zeros(room, dtype=torch.int64, device=device)
            self._places = torch.arange(room, device=device)
        self._steps.masked_fill_((self._places == self._count) & is_bad, step)
        self._count += is_bad
        left_out = is_bad | (self._count >= len(self._steps))
        optimizer.found_inf = left_out.float()  # pyright: ignore[reportAttributeAccessIssue]
        return left_out

    def read(self) -> None:
        """Waits for the device, and logs the bad steps since the last call.

        Raises:
            DivergedError: if a bad step may not be skipped; it names the step.
        """
        if self._steps is None:
            return
        for step in self._steps.tolist()[self._num_read :]:
            if step:
                self._num_read += 1
                self.skip(step)


def can_leave_out(optimizer: Optimizer) -> bool:
    """True if an optimizer's step does nothing where its `found_inf` is 1: torch's protocol for
    scaled gradients, which its fused optimizers follow.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def on_any_process(here: Tensor) -> Tensor:
    """() boolean: true if it is on one of the processes of a run; no host waits for it on a GPU."""
    if not has_several_processes():
        return here
    anywhere = here.float()
    torch.distributed.all_reduce(anywhere, torch.distributed.ReduceOp.MAX)
    return anywhere > 0
