"""Learning curves of a comparison: one per variant, with the range of its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnkit.ablation.comparison import Comparison
from attnkit.ablation.stored_run import StoredRun
from attnkit.tensorboard.scalars import MAX_TAG_BYTES, Scalars, read_scalars

MAX_POINTS = 1000
"""Longer curves are thinned to this many evenly spaced points, with the first and the last."""

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
    """Returns the tag that is drawn, and a curve for each variant that has it. The curve of a
    variant that halving stopped ends there.

    The tag is `quality/<metric>` if every variant has logged it, or one with a prefix of the
    metric's name (`quality/accuracy` for `accuracy_length_64`), or else the validation loss.

    Raises:
        OSError: if an event file cannot be read.
    """
    tags = curve_tags(comparison.metric)
    directories = {row.variant: [run.directory for run in row.runs] for row in comparison.rows}
    directories |= {each.variant: list(each.runs.values()) for each in comparison.stopped}
    read = [[read_scalars(each, tags) for each in runs] for runs in directories.values()]
    tag = next(
        (tag for tag in tags if all(any(tag in seed for seed in seeds) for seeds in read)),
        VALIDATION,
    )
    costs = {row.variant: per_step(row.runs) for row in comparison.rows}
    curves = [
        mean_curve(variant, [seed[tag] for seed in seeds if tag in seed], costs.get(variant, {}))
        for variant, seeds in zip(directories, read, strict=True)
    ]
    return tag, [curve for curve in curves if curve is not None]


def curve_tags(metric: str) -> list[str]:
    """Returns the tags whose curve may stand for a metric, the best first."""
    words = metric.split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    tags = [f"quality/{name}" for name in names if metric != "loss"]
    return [*(tag for tag in tags if len(tag.encode()) <= MAX_TAG_BYTES), VALIDATION]


def per_step(runs: Sequence[StoredRun]) -> dict[str, float]:
    """Returns `tokens`, `seconds`, `FLOPs` -> their number per step, on average over runs."""

    def mean(key: str) -> float:
        return sum(run.record.get(key) or 0 for run in runs) / len(runs)

    steps = mean("steps") or 1
    tokens = mean("tokens") / steps
    flops = tokens * mean("training_flops_per_token")
    return {"tokens": tokens, "seconds": mean("seconds") / steps, "FLOPs": flops}


def mean_curve(variant: str, seeds: Sequence[Scalars], per_step: dict[str, float]) -> Curve | None:
    """Returns the mean curve of some seeds; None if no step is within all of them."""
    if not seeds:
        return None
    first = max(seed.steps[0] for seed in seeds)
    last = min(seed.steps[-1] for seed in seeds)
    steps = np.unique(np.concatenate([seed.steps for seed in seeds]))
    steps = steps[(steps >= first) & (steps <= last)]
    if not len(steps):
        return None
    (steps,) = thinned(steps)
    values = np.stack([np.interp(steps, seed.steps, seed.values) for seed in seeds])
    return Curve(
        variant=variant,
        steps=steps,
        mean=values.mean(axis=0),
        low=values.min(axis=0),
        high=values.max(axis=0),
        per_step=per_step,
    )


def thinned(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns arrays of one length with at most `MAX_POINTS` evenly spaced items."""
    size = len(arrays[0])
    if size <= MAX_POINTS:
        return arrays
    indices = np.linspace(0, size - 1, MAX_POINTS).round().astype(int)
    return tuple(array[indices] for array in arrays)
