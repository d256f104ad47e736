"""Renders a comparison as one self-contained page: table, learning curves, loss against cost."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnkit.ablation.comparison import Comparison, Row
from attnkit.ablation.curves import learning_curves
from attnkit.ablation.tables import grid, visible
from attnkit.offline_page import offline_page

COSTS = {
    "parameters": "parameters",
    "training_flops_per_token": "training FLOPs/token",
    "tokens_per_second": "tokens/s",
    "peak_memory_bytes": "peak memory, bytes",
    "cache_bytes_per_token": "cache bytes/token",
}
"""The x axes that the metric can be drawn against."""


def page(comparison: Comparison) -> str:
    """Returns the page as HTML. All names are shown as plain text.

    Raises:
        OSError: if an event file cannot be read.
    """
    tag, curves = learning_curves(comparison)
    places = {row.variant: i for i, row in enumerate(comparison.rows)}
    data = {
        "metric": visible(comparison.metric),
        "lowerIsBetter": comparison.lower_is_better,
        "tag": visible(tag),
        "variants": [visible(row.variant) for row in comparison.rows],
        "costs": COSTS,
        "points": [_point(row) for row in comparison.rows],
        "curves": [
            {
                "variant": places[curve.variant],
                "steps": curve.steps.tolist(),
                "mean": _rounded(curve.mean),
                "low": _rounded(curve.low),
                "high": _rounded(curve.high),
                "per": curve.per_step,
            }
            for curve in curves
        ],
    }
    table = grid(comparison)
    return offline_page("attnkit.ablation", title=table.title, data=data, body=_table(comparison))


def _point(row: Row) -> dict[str, Any]:
    known = row.to_dict()
    return {key: known[key] for key in ("mean", "low", "high", "n", *COSTS)}


def _rounded(values: np.ndarray) -> list[float | None]:
    """Rounds to six digits; null where a number is not finite."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values.tolist()]


def _table(comparison: Comparison) -> str:
    """Returns table and notes as markup, so that they are visible without JavaScript."""
    table = grid(comparison)
    keys = [_sort_keys(row, i) for i, row in enumerate(comparison.rows)]
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{_text(column)}</button></th>'
        for column in table.columns
    )
    rows = "".join(_line(*line) for line in zip(table.rows, keys, table.verdicts, strict=True))
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f'</div><ul class="notes">{notes}</ul>'
    )


def _line(words: Sequence[str], keys: Sequence[float | None], verdict: str | None) -> str:
    cells = "".join(
        f'<td data-key="{"" if key is None else repr(key)}">{_text(word)}</td>'
        for word, key in list(zip(words, keys, strict=True))[1:]
    )
    kind = (verdict or "none").replace(" ", "-")
    place = int(keys[0] or 0)
    return (
        f'<tr class="{kind}" data-variant="{place}"><th scope="row" data-key="{place}">'
        f'<i class="dot" aria-hidden="true"></i>{_text(words[0])}</th>{cells}</tr>'
    )


def _sort_keys(row: Row, place: int) -> list[float | None]:
    known = row.to_dict()
    numbers = [known[key] for key in ("mean", "n", "difference", "p_holm", *COSTS)]
    return [place, *numbers]


def _text(text: str) -> str:
    return html.escape(text)
