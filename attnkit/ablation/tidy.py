"""Tidy tables of a comparison: one of its runs, one of its curves, one of its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnkit.ablation.comparison import Comparison
from attnkit.ablation.stored_run import name_by_place
from attnkit.ablation.tables import csv_of
from attnkit.errors import UserError
from attnkit.storage.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd  # pyright: ignore[reportMissingImports]

TABLES = ("runs", "curves", "variants")

_OF_A_RUN = (
    "status",
    "steps",
    "tokens",
    "seconds",
    "tokens_per_second",
    "parameters",
    "training_flops_per_token",
    "peak_memory_bytes",
    "cache_bytes",
    "device",
    "precision",
)


@dataclass(frozen=True)
class Frames:
    """The tables of a comparison as data frames of pandas.

    Attributes:
        runs: a row per run: study, variant, seed, directory, its metrics, costs and device.
        curves: a row per point: study, variant, seed, tag, step, value.
        variants: a row per variant and metric: mean, interval, difference, verdict, costs.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    variants: pd.DataFrame


def tidy_rows(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Returns `runs`, `curves` and `variants` as lists of rows, without pandas.

    Raises:
        OSError: if an event file cannot be read.
    """
    every = (comparison, *comparison.others)
    stored = {run.directory: run for each in every for row in each.rows for run in row.runs}
    metrics = list(dict.fromkeys(name for run in stored.values() for name in run.metrics))
    runs, curves = [], []
    for directory, run in stored.items():
        name = {"study": run.name.study, "variant": run.name.variant, "seed": run.name.seed}
        values = {each.metric: None for each in comparison.others}
        values |= {metric: run.metrics.get(metric) for metric in metrics}
        for each in every:  # a metric from curves is only in its rows
            with_metric = {r.directory: r for row in each.rows for r in row.runs}
            if directory in with_metric:
                values[each.metric] = with_metric[directory].metrics[each.metric]
        record = {key: run.record.get(key) for key in _OF_A_RUN}
        runs.append({**name, "directory": str(directory), **values, **record})
        curves += _points(directory, name)
    for each in comparison.stopped:
        for seed, directory in each.runs.items():
            study, variant = name_by_place(directory) or ("", each.variant)
            name = {"study": study, "variant": variant, "seed": seed}
            unknown = dict.fromkeys(runs[0]) | {"status": "halved", "steps": each.step}
            runs.append({**unknown, **name, "directory": str(directory)})
            curves += _points(directory, name)
    variants = [
        {"metric": each.metric, "base": each.base, **row}
        for each in every
        for row in each.variants_as_dicts()
    ]
    return {"runs": runs, "curves": curves, "variants": variants}


def _points(directory: Path, name: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row per point of each curve of a run."""
    from attnkit.tensorboard.scalars import read_scalars

    return [
        {**name, "tag": tag, "step": step, "value": value}
        for tag, points in read_scalars(directory).items()
        for step, value in zip(points.steps.tolist(), points.values.tolist(), strict=True)
    ]


def to_pandas(comparison: Comparison) -> Frames:
    """Returns the tables as data frames.

    Raises:
        UserError: if pandas is not installed.
        OSError: if an event file cannot be read.
    """
    try:
        import pandas as pd  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("pandas is not installed; install it: pip install pandas") from None
    return Frames(**{name: pd.DataFrame(rows) for name, rows in tidy_rows(comparison).items()})


def write_tidy(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes `runs.csv`, `curves.csv` and `variants.csv`, as `pandas.read_csv` reads them.

    Raises:
        DataError: if a file cannot be written.
        OSError: if an event file cannot be read.
    """
    files = []
    for name, rows in tidy_rows(comparison).items():
        files.append(folder / f"{name}.csv")
        with atomic_write(files[-1]) as file:
            file.write(csv_of(rows).encode())
    return files
