"""Where a run begins (step 0, or its newest checkpoint that verifies), and what has changed."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from attnkit.errors import DataError
from attnkit.recipe import Recipe
from attnkit.recipe.stored import written_recipe
from attnkit.recipe.variant import WITHOUT_INFLUENCE, is_within
from attnkit.registry import imported_source
from attnkit.runs.environment import changed_versions, read_environment
from attnkit.storage import run_directory
from attnkit.storage.checkpoint_reading import check_resumable
from attnkit.storage.checkpoint_store import CheckpointStore
from attnkit.storage.files import parse_json
from attnkit.storage.plugin_record import (
    Plugin,
    changes,
    copy_in,
    made_with,
    read_record,
    refuse_changes,
)
from attnkit.storage.run_directory import FinishedError, RunDirectoryError
from attnkit.tensorboard.event_files import ResumePoint

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("attnkit")

Resume = Literal["no", "yes", "auto"]
"""`auto`: resume if there is a run to resume, else begin."""

ABOUT_THE_PLACE = ("name", "variant", "runs_dir", "plugins")
"""Keys with the path of a run or its plugins, which may have been moved."""

_MAX_SHOWN = 8


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        checkpoint: file to resume from; None: step 0.
        point: resume point of the loggers; None: the run is new.
        changes: `key: before -> now`, for each key that differs from the recipe of the run.
        plugins: name -> the change in the code of a plugin.
        replaced: description of the run that is replaced; empty: none.
    """

    checkpoint: Path | None = None
    point: ResumePoint | None = None
    changes: tuple[str, ...] = ()
    plugins: Mapping[str, str] = field(default_factory=dict)
    replaced: str = ""


def starting_point(
    recipe: Recipe,
    directory: Path,
    *,
    overwrite: bool = False,
    resume: Resume = "no",
    allow_changes: bool = False,
) -> Start:
    """Decides where a run begins. Changes nothing on the disk.

    Args:
        recipe: recipe of the run.
        directory: directory of the run.
        overwrite: whether a run in the directory may be replaced.
        resume: whether to resume it.
        allow_changes: resume even if its recipe differs in keys that change what the run learns.

    Raises:
        RunDirectoryError: if the directory is taken, contains nothing to resume, or a run of
            another recipe.
        FinishedError: if there is nothing left to do.
        ChangedPluginError: if a plugin changed, unless `allow_changes`.
        CheckpointError: if there are checkpoints and none verifies.
        RecipeError: if the recipe in the directory cannot be read.
    """
    exists = (directory / run_directory.RECIPE).is_file()
    if resume == "no" or (resume == "auto" and not exists):
        replaced = check_replaceable(directory, recipe) if exists else ""
        if run_directory.is_first_process():
            run_directory.check_free(directory, overwrite)
        return Start(replaced=replaced)
    if not directory.exists():
        raise RunDirectoryError(
            f"{directory} does not exist; give the directory of a run, as in `attnkit resume "
            "runs/NAME/VARIANT/seed0 key=value` (`attnkit run` with other keys begins "
            "another variant, unless variant=NAME is among them)"
        )
    keys = recipe.to_dict()
    changed = differences(written_recipe(directory).to_dict(), keys)
    influential = [change for key, change in changed.items() if not has_no_influence(key)]
    if influential and not allow_changes:
        raise RunDirectoryError(
            f"{directory} holds a run of another recipe: {'; '.join(influential)}. Resume it with "
            "its own keys, or add --allow-changes"
        )
    code = changes(read_record(directory), made_with(keys))
    if not allow_changes:
        refuse_changes(directory, code)
    messages = (*changed.values(), *code.values())
    newest = CheckpointStore(directory / run_directory.CHECKPOINTS).newest()
    steps = 0 if newest is None else newest[1].step
    _check_unfinished(directory, recipe.trainer.max_steps, steps)
    if newest is None:
        return Start(None, ResumePoint(), messages, code)
    path, checkpoint = newest
    return Start(path, ResumePoint(checkpoint.step, checkpoint.event_bytes), messages, code)


def check_replaceable(directory: Path, recipe: Recipe) -> str:
    """Checks that the run in a directory has the same recipe: others are never replaced.

    The stored recipe is read as plain data; nothing that it names is imported.

    Returns:
        A description of the run to replace, and the keys in which its recipe differs.

    Raises:
        RunDirectoryError: if it has another task, or its recipe another name.
    """
    try:
        before = yaml.safe_load((directory / run_directory.RECIPE).read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict):
        return f"{directory}: a run whose recipe cannot be read"
    try:
        result = parse_json((directory / run_directory.RESULT).read_bytes())
    except (OSError, ValueError):
        result = {}
    old, new = (before.get("name"), before.get("task")), (recipe.name, recipe.task)
    if old != new:
        raise RunDirectoryError(
            f"{directory} holds a run of another recipe: `{old[0]}` (task {old[1]}), and this one "
            f"is `{new[0]}` (task {new[1]}). --overwrite does not replace it; set name=NAME or "
            "variant=NAME, or remove that folder"
        )
    changes = list(differences(before, recipe.to_dict()).values())
    steps, loss = result.get("steps"), (result.get("metrics") or {}).get("loss")
    ended = f", {steps:,} steps, loss {loss:.4f}" if steps and loss is not None else ""
    state = "a finished" if result else "an unfinished"
    others = f"; its recipe differs: {'; '.join(changes[:_MAX_SHOWN])}" if changes else ""
    return f"{directory}: {state} run of `{old[0]}` (task {old[1]}){ended}{others}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> `key: before -> now`, for the keys of two recipes that differ."""
    old, new, missing = _flat(before), _flat(now), object()
    return {
        key: f"{key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}"
        for key in dict.fromkeys([*old, *new])
        if key not in ABOUT_THE_PLACE and old.get(key, missing) != new.get(key, missing)
    }


def check_data(directory: Path, described: Mapping[str, Any]) -> None:
    """Checks that the data has not changed since the run began.

    Args:
        directory: directory of the run.
        described: the present description of the data.

    Raises:
        DataError: if it changed; the message names the differences.
        RunDirectoryError: if the record of the data is missing or damaged.
    """
    before = read_environment(directory)["data"]
    changed = differences({"data": before}, {"data": json.loads(json.dumps(described))})
    if changed:
        shown = "; ".join(list(changed.values())[:3])
        raise DataError(
            f"the data has changed since the run in {directory} began ({shown}); restore the old "
            "data, or train the run again with --overwrite"
        )


def check_start(
    start: Start, directory: Path, environment: Mapping[str, Any], model: nn.Module
) -> None:
    """Checks that a run can resume: the data has not changed, and the checkpoint fits the model.

    Raises:
        DataError: if the data changed.
        RunDirectoryError: if the record of the data is missing or damaged.
        CheckpointError: if the checkpoint cannot be resumed.
    """
    if start.checkpoint is not None:
        check_data(directory, environment["data"])
        check_resumable(start.checkpoint, model)


def report_start(start: Start, directory: Path) -> None:
    """Reports the step at which a run resumes, the changes, and missing files."""
    if start.replaced:
        log.warning("replacing %s", start.replaced)
    if start.point is None:
        return
    if start.checkpoint is None:
        log.warning("resuming %s from the beginning: it has no checkpoint yet", directory)
    else:
        log.warning("resuming %s after step %s", directory, f"{start.point.step:,}")
        if start.checkpoint.name != run_directory.LAST:
            log.warning(
                "%s is damaged or missing; %s is the newest checkpoint that verifies",
                run_directory.LAST,
                start.checkpoint.name,
            )
    for name, length in start.point.event_bytes.items():
        file = directory / name
        if not file.is_file() or file.stat().st_size < length:
            log.warning(
                "%s is missing or truncated: its curves and maps are lost; training continues", file
            )
    for change in start.changes:
        log.warning("changed: %s", change)
    for name in start.plugins:
        if lines := _difference(directory, name, read_record(directory) or []):
            log.warning("%s", lines)


def _difference(directory: Path, name: str, before: Sequence[Plugin]) -> str:
    """The difference between a plugin file and the run's copy of it, as a unified diff."""
    old = next((plugin for plugin in before if plugin.name == name and plugin.file), None)
    new = imported_source(name)
    if old is None or new is None:
        return ""
    content = copy_in(directory, old.file or "") or b""
    old_lines, new_lines = (text.decode("utf-8", "replace").splitlines() for text in (content, new))
    lines = list(difflib.unified_diff(old_lines, new_lines, "in the run", name, lineterm="", n=1))
    more = [f"... {len(lines) - _MAX_LINES} more lines"] * (len(lines) > _MAX_LINES)
    return "\n".join([*lines[:_MAX_LINES], *more])


_MAX_LINES = 60


def report_surroundings(start: Start, directory: Path, environment: dict[str, Any]) -> None:
    """Reports versions, threads and precision that changed since the last session of the run."""
    if start.checkpoint is None:
        return
    if changed := changed_versions(directory, environment):
        log.warning("the run continues, but no longer bit for bit: %s", "; ".join(changed))


def _check_unfinished(directory: Path, max_steps: int, steps: int) -> None:
    result = directory / run_directory.RESULT
    if steps > max_steps:
        raise RunDirectoryError(
            f"{directory} has already reached step {steps:,}, beyond trainer.max_steps="
            f"{max_steps}; set it higher to resume"
        )
    if steps == max_steps and result.is_file():
        raise FinishedError(
            f"{directory} is finished: {steps:,} steps of {max_steps:,}; to continue, set "
            "trainer.max_steps higher"
        )


def has_no_influence(key: str) -> bool:
    """True for a key in `WITHOUT_INFLUENCE`, or inside one of its sections."""
    return is_within(key, WITHOUT_INFLUENCE)


def _flat(keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in keys.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for i, item in enumerate(value):
                flat |= _flat(item, f"{name}[{i}].")
        else:
            flat[name] = value
    return flat
