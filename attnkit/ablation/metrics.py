"""Metrics of a comparison: final numbers of a run, and numbers that are taken from its curves.

| `--metric` | what it is |
|---|---|
| `loss`, `accuracy`, ... | a final metric of `result.json` |
| `loss/train`, ... | the last point of a logged curve |
| `area:CURVE` | area under the curve over training steps, divided by their number |
| `best:CURVE` | the best point |
| `steps_to:CURVE:X` | steps until the curve reaches X; also `tokens_to`, `seconds_to`, `flops_to` |

CURVE is a tag (`loss/val`), or the name of a metric that is logged while training (`loss`,
`accuracy`). A point between two validations is interpolated linearly. Tokens, seconds and FLOPs are
those of the whole run, in proportion to the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnkit.ablation.comparison import is_lower_better
from attnkit.ablation.stored_run import StoredRun
from attnkit.storage.run_directory import RunDirectoryError

if TYPE_CHECKING:
    from attnkit.tensorboard.scalars import Scalars

_UNITS = {"steps_to": "steps", "tokens_to": "tokens", "seconds_to": "seconds", "flops_to": "FLOPs"}
_FORMS = "area:CURVE, best:CURVE, steps_to:CURVE:X, tokens_to:, seconds_to: or flops_to:CURVE:X"


class NoValue(Exception):
    """A run has no value of a metric; the message gives the reason."""


class NotReached(NoValue):
    """The curve of a run does not reach a value: the metric is larger than what was trained."""


@dataclass(frozen=True)
class CurveMetric:
    """A number that is taken from a curve.

    Attributes:
        kind: `last`, `area`, `best`, or a key of `_UNITS`.
        curve: a tag, or the name of a metric.
        threshold: that the curve must reach; None for the other kinds.
        lower_is_better: of the curve.
    """

    kind: str
    curve: str
    threshold: float | None = None
    lower_is_better: bool = True

    @property
    def lower_number_is_better(self) -> bool:
        """True if a lower value of this metric is better."""
        return self.kind in _UNITS or self.lower_is_better

    @property
    def tags(self) -> list[str]:
        """The tags that the curve may be logged under; the first that a run has is used."""
        if "/" in self.curve:
            return [self.curve]
        return ["loss/val"] if self.curve == "loss" else [f"quality/{self.curve}"]

    def value(self, run: StoredRun) -> float:
        """Returns the metric of a run.

        Raises:
            NoValue: if it has none.
        """
        from attnkit.tensorboard.scalars import read_scalars

        try:
            curves = read_scalars(run.directory, self.tags)
        except OSError as error:
            raise NoValue(f"its curves cannot be read: {error.strerror or error}") from None
        points = next((curves[tag] for tag in self.tags if tag in curves), None)
        if points is None:
            raise NoValue(f"it has no curve {self.curve}")
        return self.of_curve(points, run)

    def of_curve(self, points: Scalars, run: StoredRun) -> float:
        """Returns the metric of a curve's points; see `value`."""
        steps, values = points.steps.astype(float), points.values.astype(float)
        if not all(map(math.isfinite, values)):
            raise NoValue(f"its curve {self.curve} is not finite everywhere")
        if self.kind == "last":
            return float(values[-1])
        if self.kind == "best":
            return float(values.min() if self.lower_is_better else values.max())
        if self.kind == "area":
            span = steps[-1] - steps[0]
            if not span:
                raise NoValue(f"its curve {self.curve} has one point: no area")
            widths = steps[1:] - steps[:-1]
            return float((widths * (values[1:] + values[:-1])).sum() / 2 / span)
        return self._first_step(steps.tolist(), values.tolist()) * self._per_step(run)

    def _first_step(self, steps: list[float], values: list[float]) -> float:
        assert self.threshold is not None
        sign = 1 if self.lower_is_better else -1
        limit, last = sign * self.threshold, None
        for step, raw in zip(steps, values, strict=True):
            value = sign * raw
            if value <= limit:
                if last is None:
                    return step
                before, height = last
                return before + (step - before) * (height - limit) / (height - value)
            last = step, value
        raise NotReached(f"its {self.curve} does not reach {self.threshold:g}")

    def _per_step(self, run: StoredRun) -> float:
        record = run.record
        per_token = record["training_flops_per_token"] if self.kind == "flops_to" else 1
        total = {
            "steps_to": record["steps"],
            "tokens_to": record["tokens"],
            "flops_to": record["tokens"] * per_token,
            "seconds_to": record.get("seconds"),
        }[self.kind]
        if total is None or not record["steps"]:
            raise NoValue(f"its {_UNITS[self.kind]} are unknown")
        return total / record["steps"]


def read_metric(text: str, higher_is_better: bool | None = None) -> CurveMetric | None:
    """Parses the name of a metric; returns None for a final metric.

    Args:
        text: one of the forms at the top of this file.
        higher_is_better: of the curve; None: inferred from its name.

    Raises:
        RunDirectoryError: if it has none of these forms.
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        if "/" not in text:
            return None
        kind, rest = "last", text
    curve, threshold = rest, None
    if kind in _UNITS:
        curve, _, written = rest.rpartition(":")
        try:
            threshold = float(written)
        except ValueError:
            threshold = math.nan
        if not curve or not math.isfinite(threshold):
            raise RunDirectoryError(
                f"--metric {text}: expected {kind}:CURVE:X with a number X, as in "
                f"{kind}:loss/val:2.5"
            )
    elif kind not in ("last", "area", "best") or not curve:
        raise RunDirectoryError(f"--metric {text}: unknown form (known: {_FORMS})")
    lower = is_lower_better(curve) if higher_is_better is None else not higher_is_better
    return CurveMetric(kind, curve, threshold, lower)
