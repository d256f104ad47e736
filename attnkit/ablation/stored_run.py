"""Reads a finished run from its directory, or reports why it cannot be compared; without torch."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attnkit.storage.files import parse_json
from attnkit.storage.run_directory import ENVIRONMENT, RECIPE, RESULT, RunDirectoryError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader where PyYAML has it: ten times as fast."""

_REQUIRED = ("metrics", "steps", "tokens", "parameters", "training_flops_per_token")

_NUMBER = int | float | None
_KINDS = {
    "metrics": dict,
    "lower_is_better": dict,
    **dict.fromkeys(("task", "status", "validation_part"), str),
    "validation_share": int | float,
    **dict.fromkeys((*_REQUIRED[1:], "unknown_share", "max_seq_len", "cache_bytes"), _NUMBER),
    **dict.fromkeys(("seconds", "tokens_per_second", "peak_memory_bytes"), _NUMBER),
}
"""Key of `result.json` that a comparison reads -> its type, where a run has it."""


@dataclass(frozen=True)
class RunName:
    """The name of a run.

    Attributes:
        study: the folder above its variant; the recipe's name.
        variant: the group that it belongs to.
        seed: pairs it with the runs of other variants.
    """

    study: str
    variant: str
    seed: int


@dataclass(frozen=True)
class StoredRun:
    """The files of a finished run.

    Attributes:
        directory: of the run.
        name: study, variant and seed.
        metrics: final numbers by name.
        record: the contents of `result.json`.
        recipe: the resolved recipe, in plain types.
        environment: versions, machine, data.
    """

    directory: Path
    name: RunName
    metrics: dict[str, float]
    record: dict[str, Any]
    recipe: dict[str, Any]
    environment: dict[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """A run that is not compared, with the reason."""

    directory: Path
    reason: str


@dataclass(frozen=True)
class StoppedVariant:
    """A variant that halving has stopped: it has curves up to a step, and no final numbers.

    Attributes:
        variant: its name; prefixed with the study's name where several are compared.
        rung: number of the rung at which it was stopped, from 1.
        rungs: number of rungs of the study.
        step: at which it was stopped.
        runs: seed -> directory.
    """

    variant: str
    rung: int
    rungs: int
    step: int
    runs: dict[int, Path]


class UnusableRun(Exception):
    """A directory has no run that can be compared; the message gives the reason."""


def name_by_place(directory: Path) -> tuple[str, str] | None:
    """Returns study and variant of `<study>/<variant>/seed<k>`; None for any other path."""
    path = Path(os.path.abspath(directory))
    if not re.fullmatch(r"seed\d+", path.name) or not path.parent.name:
        return None
    return path.parent.parent.name, path.parent.name


def load_stored_run(directory: Path) -> StoredRun:
    """Reads a run.

    Raises:
        UnusableRun: if it is unfinished, damaged, or from an incompatible version of attnkit.
    """
    if not (directory / RESULT).is_file():
        raise UnusableRun(f"unfinished: no {RESULT} (attnkit resume {shlex.quote(str(directory))})")
    record = _read_json(directory / RESULT)
    environment = _read_json(directory / ENVIRONMENT)
    recipe = _read_recipe(directory / RECIPE)
    made_by = _part(environment, "packages", "attnkit")
    here = _version()
    if made_by is None or compatible(made_by) != compatible(here):
        raise UnusableRun(f"made by attnkit {made_by or '(unknown version)'}, this is {here}")
    if missing := [key for key in _REQUIRED if record.get(key) is None]:
        raise UnusableRun(f"{RESULT} lacks {', '.join(missing)}")
    for key, kind in _KINDS.items():
        if key in record and not isinstance(record[key], kind):
            raise UnusableRun(f"{RESULT}: {key} is {str(record[key])[:40]!r}")
    for key, value in record.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UnusableRun(f"{RESULT}: {key} is not finite")
    for key, kind in {"seed": int, "model": dict}.items():
        if not isinstance(recipe.get(key), kind):
            raise UnusableRun(f"{RECIPE} lacks {key}")
    study, variant = name_by_place(directory) or (
        str(recipe.get("name")),
        str(recipe.get("variant")),
    )
    return StoredRun(
        directory=directory,
        name=RunName(study, variant, recipe["seed"]),
        metrics=record["metrics"],
        record=record,
        recipe=recipe,
        environment=environment,
    )


@functools.cache  # parsing the metadata of a package takes a millisecond
def _version() -> str:
    return importlib.metadata.version("attnkit")


def compatible(version: str) -> str:
    """Returns the part of a version that compatible runs share: `1` of 1.4.2, `0.1` of 0.1.7."""
    major, _, rest = version.partition(".")
    return f"0.{rest.partition('.')[0]}" if major == "0" else major


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UnusableRun(f"there is no {path.name}") from None
    except (OSError, ValueError) as error:
        raise UnusableRun(f"{path.name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UnusableRun(f"{path.name} is not a mapping")
    return content


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_bytes(), Loader=_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first, *_ = str(error).splitlines()
        raise UnusableRun(f"{path.name} cannot be read: {first}") from None
    if not isinstance(content, dict):
        raise UnusableRun(f"{path.name} is not a mapping")
    return content


def _part(content: dict[str, Any], *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None  # pyright: ignore
    return content


def find_runs(paths: list[Path]) -> list[Path]:
    """Returns the run directories at and below some paths, each once, sorted by name.

    Skips folders that begin with a dot or end in `.tuning`.

    Raises:
        RunDirectoryError: if a path is not a folder.
    """
    found: dict[tuple[int, int], Path] = {}
    for path in paths:
        if not path.is_dir():
            state = "is a file" if path.exists() else "does not exist"
            raise RunDirectoryError(
                f"{path} {state}; give the directory of a run, a variant or a study (runs/...)"
            )
        for directory in _runs_below(path, set()):
            found.setdefault(_place(directory), directory)
    return list(found.values())


def _place(folder: Path) -> tuple[int, int]:
    """Returns what identifies a folder, whichever links lead to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _runs_below(folder: Path, seen: set[tuple[int, int]]) -> list[Path]:
    if os.path.isfile(os.path.join(folder, RECIPE)):
        return [folder]
    try:
        if (place := _place(folder)) in seen:  # a link to a parent folder
            return []
        seen.add(place)
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise RunDirectoryError(f"{folder} cannot be read: {error.strerror}") from error
    below = [n for n in names if not n.startswith(".") and not n.endswith(".tuning")]
    return [
        run for name in sorted(below, key=by_number) for run in _runs_below(folder / name, seen)
    ]


def by_number(name: str) -> list[tuple[int, str]]:
    """Sort key that puts `seed10` after `seed9`."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
