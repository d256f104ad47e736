"""Renders a comparison as a PNG: the table, learning curves, and the metric against cost."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from attnkit.ablation.canvas import INK, Axis, Canvas, Point, padded
from attnkit.ablation.comparison import Comparison
from attnkit.ablation.curves import Curve, learning_curves
from attnkit.ablation.fairness import TOLERANCE
from attnkit.ablation.tables import grid, short, visible

# Okabe and Ito's eight colours, distinguishable with colour blindness.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c8300", "#555555")
QUIET, RULE = "#636b74", "#dcdfe3"
VERDICTS = {"better": "#00704f", "worse": "#a83c00"}

COSTS = {
    "parameters": "parameters",
    "training_flops_per_token": "training FLOPs/token",
    "cache_bytes": "cache bytes of a full context",
    "tokens_per_second": "tokens/s",
}

MARGIN, ROW, PLOT_WIDTH, PLOT_HEIGHT = 24, 26, 520, 300


def picture(comparison: Comparison) -> bytes:
    """Returns the PNG.

    Raises:
        OSError: if an event file cannot be read.
    """
    tag, curves = learning_curves(comparison)
    table = grid(comparison)
    measure = Canvas(1, 1)
    columns = list(zip(table.columns, *table.rows, strict=True))
    widths = [max(measure.width(word) for word in column) + 28 for column in columns]
    widths[0] += 18
    width = int(max(sum(widths), 2 * PLOT_WIDTH + MARGIN)) + 2 * MARGIN
    notes = [
        line
        for note in table.notes
        if not note.startswith("left out")
        for line in measure.wrapped(note, width - 2 * MARGIN)
    ]
    top = MARGIN + 30
    plots = top + ROW * (len(table.rows) + 1) + 18 * len(notes) + 40
    canvas = Canvas(width, plots + PLOT_HEIGHT + MARGIN)
    canvas.text((MARGIN, MARGIN), table.title, size=17, anchor="la")
    stretch = (width - 2 * MARGIN - sum(widths)) / max(1, len(widths) - 1)
    _draw_table(canvas, columns, [w + stretch for w in widths], table.verdicts, top)
    for i, note in enumerate(notes):
        place = (MARGIN, top + ROW * (len(table.rows) + 1) + 12 + 18 * i)
        canvas.text(place, note, size=12, colour=QUIET, anchor="la")
    half = (width - 3 * MARGIN) / 2
    names = [visible(row.variant) for row in comparison.rows]
    _draw_curves(canvas, (MARGIN, plots), half, visible(tag), curves, comparison)
    _draw_costs(canvas, (2 * MARGIN + half, plots), half, comparison, names)
    return canvas.png()


def _draw_table(
    canvas: Canvas,
    columns: Sequence[Sequence[str]],
    widths: Sequence[float],
    verdicts: Sequence[str | None],
    top: float,
) -> None:
    left = float(MARGIN)
    total = MARGIN + sum(widths)
    for i, (column, width) in enumerate(zip(columns, widths, strict=True)):
        for r, word in enumerate(column):
            y = top + ROW * (r + 0.5)
            colour = QUIET if r == 0 else INK
            if i == 4 and r:
                colour = VERDICTS.get(verdicts[r - 1] or "", QUIET)
            if i in (0, 4):
                indent = 18 if i == 0 and r else 0
                canvas.text((left + indent, y), word, colour=colour, anchor="lm")
            else:
                canvas.text((left + width - 28, y), word, colour=colour, anchor="rm")
            if i == 0 and r:
                canvas.dot((left + 6, y), 5, _colour(r - 1))
        left += width
    for r in range(1, len(columns[0]) + 1):
        y = top + ROW * r
        canvas.line([(MARGIN, y), (total, y)], QUIET if r == 1 else RULE)


def _frame(
    canvas: Canvas, at: Point, width: float, title: str, below: str, x: Axis, y: Axis
) -> None:
    canvas.text((at[0], at[1]), title, size=14, anchor="la")
    for value in y.ticks():
        canvas.line([(x.start, y(value)), (x.end, y(value))], RULE)
        canvas.text((x.start - 8, y(value)), _tick(value), size=12, colour=QUIET, anchor="rm")
    for value in x.ticks():
        canvas.text((x(value), y.start + 14), _tick(value), size=12, colour=QUIET, anchor="mm")
    canvas.text(((x.start + x.end) / 2, y.start + 32), below, size=12, colour=QUIET, anchor="mm")


def _draw_curves(
    canvas: Canvas, at: Point, width: float, tag: str, curves: list[Curve], found: Comparison
) -> None:
    start, end = at[1] + PLOT_HEIGHT - 46, at[1] + 30
    values = [float(v) for c in curves for v in (*c.low, *c.high) if np.isfinite(v)]
    title = f"{tag} (line: mean, band: all seeds)"
    if not values:
        canvas.text(at, f"no run has logged {tag}", size=14, colour=QUIET, anchor="la")
        return
    y = padded(values, start, end)
    last = float(max(curve.steps[-1] for curve in curves)) or 1.0
    x = Axis(float(min(curve.steps[0] for curve in curves)), last, at[0] + 56, at[0] + width)
    _frame(canvas, at, width, title, "step", x, y)
    place = {each.variant: i for i, each in enumerate((*found.rows, *found.stopped))}

    def points(steps: np.ndarray, numbers: np.ndarray) -> list[Point]:
        pairs = zip(steps.tolist(), numbers.tolist(), strict=True)
        return [(x(step), y(value)) for step, value in pairs if math.isfinite(value)]

    for curve in curves:
        band = [*points(curve.steps, curve.high), *points(curve.steps, curve.low)[::-1]]
        if len(band) > 2:
            canvas.area(band, _colour(place[curve.variant]), 44)
    for curve in curves:
        line = points(curve.steps, curve.mean)
        if len(line) == 1:
            canvas.dot(line[0], 3, _colour(place[curve.variant]))
        elif line:
            canvas.line(line, _colour(place[curve.variant]), 2)


def _draw_costs(
    canvas: Canvas, at: Point, width: float, found: Comparison, names: Sequence[str]
) -> None:
    key, words = _cost(found)
    xs = [row.mean_of(key) or 0.0 for row in found.rows]
    start, end = at[1] + PLOT_HEIGHT - 46, at[1] + 30
    estimates = [row.value for row in found.rows]
    ends = [v for e in estimates for v in (e.mean, e.low, e.high) if v is not None]
    y = padded(ends, start, end)
    wide = min(xs) > 0 and max(xs) / min(xs) > 4
    x = padded(xs, at[0] + 56, at[0] + width, wide)
    below = f"{words} (logarithmic)" if wide else words
    title = f"{visible(found.metric)} against {words}"
    _frame(canvas, at, width, title, below, x, y)
    taken: list[tuple[float, float, float]] = []
    for i, (value, estimate, name) in enumerate(zip(xs, estimates, names, strict=True)):
        px, py = x(value), y(estimate.mean)
        if estimate.low is not None and estimate.high is not None:
            canvas.line([(px, y(estimate.low)), (px, y(estimate.high))], _colour(i), 1.5)
            for cap in (estimate.low, estimate.high):
                canvas.line([(px - 5, y(cap)), (px + 5, y(cap))], _colour(i), 1.5)
        canvas.dot((px, py), 5, _colour(i))
        size = canvas.width(name, 12)
        right = px + 12 + size < at[0] + width
        left = px + 12 if right else px - 12 - size
        height = _free(taken, left, size, py)
        if height < start - 4:  # a name that does not fit is only in the table, with its colour
            taken.append((left, size, height))
            canvas.text((left, height), name, size=12, anchor="lm")


def _cost(found: Comparison) -> tuple[str, str]:
    """Returns the cost in which the variants differ most: parameters, FLOPs, cache; else speed."""

    def ratio(key: str) -> float:
        numbers = [row.mean_of(key) or 0.0 for row in found.rows]
        return max(numbers) / min(numbers) if min(numbers) > 0 else 0.0

    key = max(list(COSTS)[:-1], key=ratio)
    key = key if ratio(key) > 1 + TOLERANCE else "tokens_per_second"
    return key, COSTS[key]


def _free(
    taken: Sequence[tuple[float, float, float]], left: float, size: float, height: float
) -> float:
    """Returns the height of a name, moved down until it covers no other."""
    for other, width, y in sorted(taken, key=lambda place: place[2]):
        overlaps = left < other + width and other < left + size
        if overlaps and abs(y - height) < 14:
            height = y + 14
    return height


def _tick(value: float) -> str:
    """Formats a round number: `5k`, not `5.000k`."""
    return re.sub(r"\.?0+(?=[TGMk]?$)", "", text) if "." in (text := short(value)) else text


def _colour(variant: int) -> str:
    return COLOURS[variant % len(COLOURS)]
