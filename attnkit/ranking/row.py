"""A row of the table: the numbers of a mechanism, in one file.

`runs/rank/rows/<protocol>/<mechanism>-<digest>.json`. The digest is that of all that the numbers
depend on, so a finished row is never trained again, and one of changed code is another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnkit.ablation.evidence import commit, machine_of
from attnkit.ablation.stored_run import load_stored_run
from attnkit.ranking.cells import FOLDER, Cell
from attnkit.ranking.protocol import Protocol, RankError
from attnkit.registry import ATTENTION
from attnkit.storage import run_directory
from attnkit.storage.files import parse_json
from attnkit.storage.plugin_record import describe

FORMAT = 1
"""Version of the file; that of the protocol is apart."""

LENGTHS = (1024, 16384)
"""Tokens of the caches that a row states."""

ROWS = FOLDER / "rows"


def rows_folder(protocol: Protocol) -> Path:
    """Returns the folder of a protocol's rows."""
    return ROWS / protocol.name


def finished_row(protocol: Protocol, variant: str) -> dict[str, Any] | None:
    """Returns a row that needs no training; None if it has to be made.

    Raises:
        RankError: if its file is damaged.
    """
    path = rows_folder(protocol) / f"{variant}.json"
    row = read_row(path) if path.is_file() else None
    return row if row is not None and row["complete"] else None


def read_row(path: Path) -> dict[str, Any]:
    """Reads a row.

    Raises:
        RankError: if it is damaged, or of another format.
    """
    try:
        row = parse_json(path.read_bytes())
        known = row["format"] == FORMAT
        needed = ("protocol", "tier", "variant", "mechanism", "base", "tasks", "costs", "complete")
        if missing := [key for key in needed if known and key not in row]:
            raise KeyError(missing[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RankError(f"{path} is no row of attnkit rank ({error}); remove it") from None
    if not known:
        raise RankError(
            f"{path} has format {row['format']}, this attnkit writes format {FORMAT}; remove it"
        )
    return row


def make_row(
    protocol: Protocol, cells: Mapping[str, Cell], tasks: Mapping[str, Any], base: str
) -> dict[str, Any]:
    """Returns a row in plain types, before its speed is measured.

    Args:
        protocol: the protocol.
        cells: task -> cell, of one mechanism.
        tasks: task -> what `train` returned.
        base: folder of the base's runs.
    """
    first = next(iter(cells.values()))
    subject, mechanism = first.subject, ATTENTION.get(first.subject.mechanism)
    plugins = [found for name in subject.plugins if (found := describe(name)) is not None]
    runs = [run for task in tasks.values() for run in task.get("runs", ())]
    return {
        "format": FORMAT,
        "protocol": protocol.version,
        "tier": protocol.tier,
        "mechanism": subject.mechanism,
        "variant": first.variant,
        "base": base,
        "formula": mechanism.formula,
        "paper": mechanism.paper,
        "plugins": [{"name": Path(each.name).name, "sha256": each.sha256} for each in plugins],
        "position": first.recipe.model["position"].name,
        "changes": first.study.describe()["variants"][first.variant],
        "tasks": dict(tasks),
        "costs": _counted(cells),
        "complete": all(task.get("failed") != "failed" for task in tasks.values()),
        "machine": machine_of(load_stored_run(Path(runs[0]))) if runs else {},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _counted(cells: Mapping[str, Cell]) -> dict[str, Any]:
    """Returns the costs that need no clock: those of the first task's model."""
    import torch

    from attnkit.models.accounting import cache_bytes
    from attnkit.models.shapes_only import shapes_only
    from attnkit.tasks.building import build_data, build_model

    cell = next(iter(cells.values()))
    recipe = cell.recipe
    costs = cell.study.count(recipe)
    data = build_data(recipe)
    data.prepare()
    with shapes_only():
        model = build_model(recipe, *data.vocab_sizes)
    caches = {str(n): cache_bytes(model, n, torch.float32) for n in LENGTHS}
    return {
        "parameters": costs.parameters,
        "training_flops_per_token": costs.flops,
        "cache_bytes": caches,
    }


def lacks_speed(row: Mapping[str, Any]) -> bool:
    """True if a row's speed was not measured, or while other processes used the cores."""
    return not row["costs"].get("speed", {}).get("is_quiet")


def write_row(protocol: Protocol, row: Mapping[str, Any]) -> Path:
    """Writes a row."""
    folder = rows_folder(protocol)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row['variant']}.json"
    run_directory.write_json(path, dict(row))
    return path
