"""A comparison and its curves as plain types, for the page in TensorBoard and for the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attnkit.ablation.comparison import NOT_DECIDED, Comparison, Row
from attnkit.ablation.curves import Curve, thinned
from attnkit.ablation.tables import grid, visible
from attnkit.tensorboard.scalars import Scalars

COSTS = {
    "parameters": "parameters",
    "training_flops_per_token": "training FLOPs/token",
    "tokens_per_second": "tokens/s",
    "peak_memory_bytes": "peak memory, bytes",
    "cache_bytes_per_token": "cache bytes/token",
}
"""The costs that the metric can be drawn against."""

DIGITS = 6
"""Significant digits of a curve's values."""


def comparison_view(comparison: Comparison) -> dict[str, Any]:
    """Returns the table: words to show, and the numbers behind them."""
    table = grid(comparison)
    rows = zip(comparison.rows, table.rows, strict=False)
    count = len(comparison.rows)
    stopped = zip(comparison.stopped, table.rows[count:], strict=True)
    return {
        "title": table.title,
        "metric": visible(comparison.metric),
        "lowerIsBetter": comparison.lower_is_better,
        "base": comparison.base,
        "columns": table.columns,
        "notes": table.notes,
        "rows": {row.variant: _row_view(row, words) for row, words in rows}
        | {each.variant: _stopped_view(words) for each, words in stopped},
    }


def _row_view(row: Row, words: Sequence[str]) -> dict[str, Any]:
    known = row.to_dict()
    return {
        "words": list(words),
        "verdict": row.verdict,
        "isBase": row.is_base,
        **{key: _finite(known[key]) for key in ("mean", "low", "high", *COSTS)},
    }


def _stopped_view(words: Sequence[str]) -> dict[str, Any]:
    numbers = dict.fromkeys(("mean", "low", "high", *COSTS))
    return {"words": list(words), "verdict": NOT_DECIDED, "isBase": False, **numbers}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class CurvesView:
    """Collects curves; steps that several curves share are written once."""

    def __init__(self, tag: str, tags: Sequence[str]) -> None:
        self.tag = tag
        self.tags = tags
        self.steps: dict[bytes, int] = {}
        self._lists: list[list[int]] = []
        self.means: list[dict[str, Any]] = []
        self.seeds: list[dict[str, Any]] = []

    def add_mean(self, place: int, curve: Curve, count: int) -> None:
        """Adds the mean of `count` seeds of the variant at a place in the table."""
        band = count > 1
        self.means.append(
            {
                "variant": place,
                "steps": self._index(curve.steps),
                "mean": rounded(curve.mean),
                "low": rounded(curve.low) if band else None,
                "high": rounded(curve.high) if band else None,
                "n": count,
                "per": curve.per_step,
            }
        )

    def add_seed(
        self,
        place: int,
        seed: int,
        scalars: Scalars,
        per: dict[str, float] | None,
        finished: bool,
    ) -> None:
        """Adds the curve of one run, thinned."""
        steps, values = thinned(scalars.steps, scalars.values)
        self.seeds.append(
            {
                "variant": place,
                "seed": seed,
                "steps": self._index(steps),
                "values": rounded(values),
                "per": per,
                "finished": finished,
            }
        )

    def _index(self, steps: np.ndarray) -> int:
        key = np.ascontiguousarray(steps).tobytes()
        if key not in self.steps:
            self.steps[key] = len(self._lists)
            self._lists.append(steps.tolist())
        return self.steps[key]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain types."""
        return {
            "tag": self.tag,
            "tags": list(self.tags),
            "steps": self._lists,
            "curves": self.means,
            "seeds": self.seeds,
        }

    def to_json(self) -> bytes:
        """Returns JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False).encode()


def rounded(values: np.ndarray) -> list[float | None]:
    """Rounds to `DIGITS` significant digits; None where a number is not finite."""
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    size = np.abs(np.where(finite & (values != 0), values, 1.0))
    factor = 10.0 ** (DIGITS - 1 - np.floor(np.log10(size)))
    with np.errstate(over="ignore", invalid="ignore"):
        short = np.round(np.where(finite, values, 0.0) * factor) / factor
    listed = short.tolist()
    if finite.all() and np.isfinite(short).all():
        return listed
    valid = (finite & np.isfinite(short)).tolist()
    return [value if is_valid else None for value, is_valid in zip(listed, valid, strict=True)]


def curve_tag(candidates: Sequence[str], logged: Iterable[frozenset[str]], default: str) -> str:
    """Returns the first candidate that every variant with curves has logged; else the default."""
    everywhere = [tags for tags in logged if tags]
    for tag in candidates:
        if everywhere and all(tag in tags for tags in everywhere):
            return tag
    return default
