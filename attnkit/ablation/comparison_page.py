"""Renders a comparison as one self-contained page: the Ablations page of TensorBoard with embedded
data.
"""

from __future__ import annotations

import html
from typing import Any

from attnkit.ablation.comparison import Comparison, Row
from attnkit.ablation.curves import learning_curves, per_step
from attnkit.ablation.page.view import COSTS, CurvesView, comparison_view
from attnkit.ablation.stored_run import StoppedVariant
from attnkit.ablation.tables import comma_separated, grid, latex, markdown, visible
from attnkit.pages.offline import offline_page
from attnkit.tensorboard.scalars import read_scalars


def page(comparison: Comparison) -> str:
    """Returns the page as HTML. All names are shown as plain text.

    Raises:
        OSError: if an event file cannot be read.
    """
    data = {
        "view": _view(comparison),
        "curves": _curves(comparison),
        "exports": {
            "csv": comma_separated(comparison),
            "md": markdown(comparison),
            "tex": latex(comparison),
        },
    }
    table = html.escape(markdown(comparison))
    return offline_page(
        "attnkit.ablation.page",
        "offline.js",
        title=grid(comparison).title,
        data=data,
        body=f"<noscript><pre>{table}</pre></noscript>",
    )


def _view(comparison: Comparison) -> dict[str, Any]:
    return {
        "id": visible(comparison.title),
        "problem": None,
        "complete": True,
        "table": comparison_view(comparison),
        "metrics": {visible(comparison.metric): len(comparison.rows)},
        "costs": COSTS,
        "variants": [
            *(_variant(row) for row in comparison.rows),
            *(_stopped(each) for each in comparison.stopped),
        ],
    }


def _variant(row: Row) -> dict[str, Any]:
    runs = [
        {"seed": seed, "state": "finished", "text": "", "lines": [], "run": None, "value": value}
        for seed, value in row.values.items()
    ]
    return {"name": row.variant, "label": visible(row.variant), "runs": runs}


def _stopped(variant: StoppedVariant) -> dict[str, Any]:
    run = {"state": "halved", "text": f"at step {variant.step:,}", "lines": [], "run": None}
    runs = [{"seed": seed, "value": None, **run} for seed in variant.runs]
    return {"name": variant.variant, "label": visible(variant.variant), "runs": runs}


def _curves(comparison: Comparison) -> dict[str, Any]:
    tag, curves = learning_curves(comparison)
    view = CurvesView(tag, [tag])
    means = {curve.variant: curve for curve in curves}
    for place, row in enumerate(comparison.rows):
        count = 0
        for run in row.runs:
            if (scalars := read_scalars(run.directory, [tag]).get(tag)) is not None:
                count += 1
                view.add_seed(place, run.name.seed, scalars, per_step(row.runs), True)
        if row.variant in means:
            view.add_mean(place, means[row.variant], count)
    for place, each in enumerate(comparison.stopped, start=len(comparison.rows)):
        for seed, directory in each.runs.items():
            if (scalars := read_scalars(directory, [tag]).get(tag)) is not None:
                view.add_seed(place, seed, scalars, None, False)
    return view.to_dict()
