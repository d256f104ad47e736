"""Learning curves of a comparison: one per variant, with the range of its seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnkit.ablation.comparison import Comparison, Row
from attnkit.tensorboard.scalars import MAX_TAG_BYTES, Scalars, read_scalars

MAX_POINTS = 1000
"""Longer curves are thinned to this many evenly spaced points; first and last stay."""

VALIDATION = "loss/val"


@dataclass(frozen=True)
class Curve:
    """The curve of a variant.

    Attributes:
        variant: its name.
        steps: (N,) at which at least one seed was measured, within the range of all.
        mean: (N,) over the seeds, interpolated where a seed was not measured.
        low: (N,) the lowest seed.
        high: (N,) the highest seed.
        per_step: `tokens`, `seconds`, `FLOPs` -> their number per step, on average.
    """

    variant: str
    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    per_step: dict[str, float]


def learning_curves(comparison: Comparison) -> tuple[str, list[Curve]]:
    """Returns the tag that is drawn, and a curve for each variant that has it.

    The tag is `quality/<metric>` if every variant has logged it; or one that the metric's name
    begins with (`quality/accuracy` for `accuracy_length_64`); else the validation loss.

    Raises:
        OSError: if an event file cannot be read.
    """
    words = comparison.metric.split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    own = [f"quality/{name}" for name in names if comparison.metric != "loss"]
    tags = [*(tag for tag in own if len(tag.encode()) <= MAX_TAG_BYTES), VALIDATION]
    read = [[read_scalars(run.directory, tags) for run in row.runs] for row in comparison.rows]
    tag = next(
        (tag for tag in tags if all(any(tag in seed for seed in seeds) for seeds in read)),
        VALIDATION,
    )
    pairs = zip(comparison.rows, read, strict=True)
    curves = [_curve(row, [seed[tag] for seed in seeds if tag in seed]) for row, seeds in pairs]
    return tag, [curve for curve in curves if curve is not None]


def _curve(row: Row, seeds: list[Scalars]) -> Curve | None:
    if not seeds:
        return None
    first = max(seed.steps[0] for seed in seeds)
    last = min(seed.steps[-1] for seed in seeds)
    steps = np.unique(np.concatenate([seed.steps for seed in seeds]))
    steps = steps[(steps >= first) & (steps <= last)]
    if not len(steps):
        return None
    if len(steps) > MAX_POINTS:
        steps = steps[np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int)]
    values = np.stack([np.interp(steps, seed.steps, seed.values) for seed in seeds])
    total: Any = row.mean_of("steps") or 1
    tokens = (row.mean_of("tokens") or 0) / total
    return Curve(
        variant=row.variant,
        steps=steps,
        mean=values.mean(axis=0),
        low=values.min(axis=0),
        high=values.max(axis=0),
        per_step={
            "tokens": tokens,
            "seconds": (row.mean_of("seconds") or 0) / total,
            "FLOPs": tokens * (row.mean_of("training_flops_per_token") or 0),
        },
    )
