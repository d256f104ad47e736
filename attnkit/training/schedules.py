"""Learning-rate schedules: the share of the highest rate at each step. Functions of the step alone,
without state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from attnkit.registry import SCHEDULES


class Schedule(ABC):
    """Warm-up from zero, then a shape that the subclass defines.

    Args:
        warmup_steps: steps over which the rate rises linearly to the highest.
    """

    def __init__(self, *, warmup_steps: int = 0) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
        self.warmup_steps = warmup_steps

    def factor(self, step: int, max_steps: int) -> float:
        """Share of the highest rate at `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        rest = max(max_steps - self.warmup_steps, 1)
        return self.after_warmup(min((step - self.warmup_steps) / rest, 1.0))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """Share of the highest rate after warm-up; `progress` goes from 0 to 1."""


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The highest rate to the end."""

    def after_warmup(self, progress: float) -> float:
        """One."""
        return 1.0


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Half a cosine from the highest rate down to a share of it. arXiv:1608.03983.

    Args:
        final_ratio: share of the highest rate at the end.
    """

    def __init__(self, *, final_ratio: float = 0.1, **options) -> None:
        super().__init__(**options)
        _check_share("final_ratio", final_ratio)
        self.final_ratio = final_ratio

    def after_warmup(self, progress: float) -> float:
        """final + (1 - final) (1 + cos(pi progress)) / 2."""
        return self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


@SCHEDULES.register("linear")
class Linear(Schedule):
    """The highest rate, then a straight line down to a share of it over the last part of training.

    Args:
        decay_share: share of the steps after warm-up over which the rate falls.
        final_ratio: share of the highest rate at the end.
    """

    def __init__(self, *, decay_share: float = 1.0, final_ratio: float = 0.0, **options) -> None:
        super().__init__(**options)
        _check_share("final_ratio", final_ratio)
        _check_share("decay_share", decay_share)
        self.decay_share = decay_share
        self.final_ratio = final_ratio

    def after_warmup(self, progress: float) -> float:
        """1, then falling in a straight line."""
        if progress <= 1 - self.decay_share:
            return 1.0
        return 1 - (1 - self.final_ratio) * (progress - 1 + self.decay_share) / self.decay_share


@SCHEDULES.register("inverse_sqrt")
class InverseSqrt(Schedule):
    """The highest rate, then falling with the square root of the step. arXiv:1706.03762, section
    5.3.

    Args:
        warmup_steps: steps over which the rate rises; at four times as many it is half of the
            highest.
    """

    def __init__(self, *, warmup_steps: int = 1000) -> None:
        super().__init__(warmup_steps=warmup_steps)

    def factor(self, step: int, max_steps: int) -> float:
        """Rises to 1, then sqrt(warmup / step), up to the end of the run."""
        step = min(step, max_steps)
        if step < self.warmup_steps:
            return super().factor(step, max_steps)
        return math.sqrt((self.warmup_steps + 1) / (step + 1))

    def after_warmup(self, progress: float) -> float:
        """Not used: the shape is one of the step, not of the share of the run."""
        raise NotImplementedError


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
