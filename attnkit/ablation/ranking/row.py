"""Rows of the table: the numbers of a mechanism, and where they are kept.

A row that is made here is `runs/rank/rows/<protocol>/<mechanism>-<digest>.json`. A published table
is a `.json` file that `attnkit rank --out` has written; `docs/zoo.json` comes with the kit. A row
counts wherever it is kept, while its version of the protocol is the present one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnkit.ablation.evidence import commit, machine_of
from attnkit.ablation.ranking.cells import FOLDER, Cell
from attnkit.ablation.ranking.protocol import Protocol, RankError
from attnkit.ablation.stored_run import load_stored_run
from attnkit.registry import ATTENTION
from attnkit.storage import run_directory
from attnkit.storage.files import parse_json
from attnkit.storage.plugin_record import describe

FORMAT = 2
"""Version of the files; that of the protocol is apart."""

LENGTHS = (1024, 16384)
"""Tokens of the caches that a row states."""

ROWS = FOLDER / "rows"

_PACKAGE = Path(__file__).resolve().parents[2]
_REMEDY = "remove it, or choose another --out"
_KINDS = {
    **dict.fromkeys(("tier", "name", "mechanism", "variant", "date"), (str, "text")),
    **dict.fromkeys(("rows", "plugins", "keys"), (list, "a list")),
    **dict.fromkeys(("tasks", "costs"), (dict, "a mapping")),
    "protocol": (int, "a whole number"),
    "complete": (bool, "true or false"),
}
"""Key of a file -> type of its value, also in words."""

_NEEDED = ("name", "mechanism", "variant", "tasks", "costs", "complete", "date", "plugins", "keys")


def shipped_tables() -> list[Path]:
    """Returns the published tables that come with the kit: in a clone, in its folder `docs`."""
    installed = sorted((_PACKAGE / "docs").glob("zoo*.json"))
    return installed or sorted((_PACKAGE.parent / "docs").glob("zoo*.json"))


def rows_folder(protocol: Protocol) -> Path:
    """Returns the folder of the rows of a protocol that are made here."""
    return ROWS / protocol.name


@dataclass
class Kept:
    """The rows of a protocol, wherever they are kept.

    Attributes:
        rows: name -> its rows, the newest last.
        left_out: what cannot be in the table, and why.
    """

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def row(self, name: str, variant: str | None = None) -> dict[str, Any] | None:
        """Returns the newest row of a name, one of the present code if there is any; None: none.

        Args:
            name: of the row.
            variant: its folder with the present code; None: unknown.
        """
        rows = self.rows.get(name, [])
        current = [row for row in rows if row["variant"] == variant]
        return next(reversed(current or rows), None)


def read_kept(protocol: Protocol, tables: Iterable[Path] = ()) -> Kept:
    """Reads all rows of a protocol: those made here, those of the kit, those of other tables.

    Args:
        protocol: the protocol.
        tables: published tables beside those of the kit.

    Raises:
        RankError: if a file is damaged, or of another format.
    """
    kept = Kept()
    found: list[dict[str, Any]] = []
    files = {path.resolve(): path for path in (*shipped_tables(), *tables) if path.is_file()}
    for path in files.values():
        content = read_file(path, ("rows",))
        if content["tier"] != protocol.tier:
            continue
        if content["protocol"] != protocol.version:
            kept.left_out.append(_other_version(len(content["rows"]), path, content["protocol"]))
            continue
        for row in content["rows"]:
            _check(row, ("protocol", "tier", *_NEEDED), path)
            found.append(row)
    for folder in sorted(ROWS.glob(f"{protocol.tier}-v*")):
        paths = sorted(folder.glob("*.json"))
        if folder.name == protocol.name:
            found += [read_row(path) for path in paths]
        elif paths:
            version = folder.name.rpartition("-v")[2]
            kept.left_out.append(_other_version(len(paths), folder, version))
    for row in sorted(found, key=lambda row: row["date"]):
        if (row["protocol"], row["tier"]) != (protocol.version, protocol.tier):
            kept.left_out.append(
                f"{row['name']} of protocol {row['protocol']}, tier {row['tier']}: rows of two "
                "protocols are never mixed"
            )
        elif row["complete"]:
            kept.rows.setdefault(row["name"], []).append(row)
    unfinished = dict.fromkeys(row["name"] for row in found if not row["complete"])
    kept.left_out += [
        f"{name}, which is not complete: rank it again"
        for name in unfinished
        if name not in kept.rows
    ]
    return kept


def _other_version(count: int, place: Path, version: object) -> str:
    rows = f"{count} row{'s' * (count != 1)}"
    return f"{rows} of version {version} of the protocol: rows of two are never mixed ({place})"


def read_row(path: Path) -> dict[str, Any]:
    """Reads a row that was made here.

    Raises:
        RankError: if it is damaged, or of another format.
    """
    return read_file(path, _NEEDED)


def read_file(path: Path, needed: Iterable[str]) -> dict[str, Any]:
    """Reads a row, or a published table.

    Raises:
        RankError: if it is damaged, or of another format.
    """
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise RankError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise RankError(f"{path} is not a JSON file, or a damaged one; {_REMEDY}") from None
    if not isinstance(content, dict) or "format" not in content:
        raise RankError(f"{path} is not a row or table of attnkit rank; {_REMEDY}")
    if content["format"] != FORMAT:
        raise RankError(
            f"{path} has format {content['format']}, this attnkit writes format {FORMAT}; {_REMEDY}"
        )
    _check(content, ("protocol", "tier", *needed), path)
    return content


def _check(content: Any, needed: Iterable[str], path: Path) -> None:
    for key in needed:
        kind, words = _KINDS[key]
        if not isinstance(content, dict) or key not in content:
            problem = f"it has no `{key}`"
        elif type(content[key]) is not kind:
            problem = f"its `{key}` is not {words}"
        else:
            continue
        raise RankError(f"{path} is not a row or table of attnkit rank: {problem}; {_REMEDY}")


def counted_costs(cells: Mapping[str, Cell]) -> dict[str, Any]:
    """Returns the costs that need no clock: those of the first task's model. A cache that a
    mechanism of limited length cannot fill has no size (None).
    """
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
    caches: dict[str, int | None] = {}
    for length in LENGTHS:
        try:
            caches[str(length)] = cache_bytes(model, length, torch.float32)
        except ValueError:
            caches[str(length)] = None
    return {
        "parameters": costs.parameters,
        "training_flops_per_token": costs.flops,
        "cache_bytes": caches,
    }


def make_row(
    protocol: Protocol,
    cells: Mapping[str, Cell],
    tasks: Mapping[str, Any],
    costs: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns a row in plain types, before its speed is measured.

    Args:
        protocol: the protocol.
        cells: task -> cell, of one mechanism.
        tasks: task -> what `train` returned.
        costs: from `counted_costs`.
    """
    first = next(iter(cells.values()))
    subject, mechanism = first.subject, ATTENTION.get(first.subject.mechanism)
    plugins = [found for name in subject.plugins if (found := describe(name)) is not None]
    runs = [run for task in tasks.values() for run in task.get("runs", ())]
    return {
        "format": FORMAT,
        "protocol": protocol.version,
        "tier": protocol.tier,
        "name": subject.name,
        "mechanism": subject.mechanism,
        "keys": list(subject.keys),
        "variant": first.variant,
        "formula": mechanism.formula,
        "paper": mechanism.paper,
        "plugins": [{"name": Path(each.name).name, "sha256": each.sha256} for each in plugins],
        "position": first.recipe.model["position"].name,
        "changes": first.study.describe()["variants"][first.variant],
        "tasks": dict(tasks),
        "costs": dict(costs),
        "complete": all(task.get("failed") != "failed" for task in tasks.values()),
        "machine": machine_of(load_stored_run(Path(runs[0]))) if runs else {},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def lacks_speed(row: Mapping[str, Any], machine: Mapping[str, Any]) -> bool:
    """True if a row's speed was not measured on this machine, or while other processes used its
    cores.
    """
    speed = row["costs"].get("speed", {})
    return not speed.get("is_quiet") or speed.get("machine") != machine


def write_row(protocol: Protocol, row: Mapping[str, Any]) -> Path:
    """Writes a row."""
    folder = rows_folder(protocol)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row['variant']}.json"
    run_directory.write_json(path, dict(row))
    return path
