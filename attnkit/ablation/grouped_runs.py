"""Finds the runs to compare, groups them by variant, and lists those that are left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnkit.ablation.plan_file import PlanFile, read_plan_file
from attnkit.ablation.stored_run import (
    LeftOut,
    RunName,
    StoppedVariant,
    StoredRun,
    UnusableRun,
    by_number,
    find_runs,
    load_stored_run,
)
from attnkit.ablation.trial_files import why_it_failed
from attnkit.storage.run_directory import RECIPE, RunDirectoryError


@dataclass
class GroupedRuns:
    """Runs grouped by variant, in display order.

    Attributes:
        runs: label -> seed -> run.
        left_out: runs that were found or planned but cannot be compared.
        plans: study -> its plan.
        stopped: the variants that halving has stopped.
        several: True if there are several studies: labels then begin with the study's name.
    """

    runs: dict[str, dict[int, StoredRun]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    plans: dict[str, PlanFile] = field(default_factory=dict)
    stopped: list[StoppedVariant] = field(default_factory=list)
    several: bool = False

    def label(self, study: str, variant: str) -> str:
        """Returns a variant's name in the table."""
        return f"{study}/{variant}" if self.several else variant

    def all(self) -> Iterator[StoredRun]:
        """Iterates over every run."""
        return (run for runs in self.runs.values() for run in runs.values())


def group_runs(
    paths: Sequence[Path], load: Callable[[Path], StoredRun] = load_stored_run
) -> GroupedRuns:
    """Reads and groups the runs at and below some paths.

    Args:
        paths: directories of runs, variants or studies.
        load: reads a run, or raises `UnusableRun`; may return cached runs.

    Raises:
        RunDirectoryError: if a path is not a folder, it contains no finished run, two runs have the
            same name, or a plan cannot be read.
    """
    found, usable = GroupedRuns(), list[StoredRun]()
    for directory in find_runs(list(paths)):
        try:
            run = load(directory)
        except UnusableRun as reason:
            found.left_out.append(LeftOut(directory, str(reason)))
            continue
        usable.append(run)
    folders = [_study_folder(run) for run in usable]
    plans = {folder: read_plan_file(folder) for folder in dict.fromkeys(folders)}
    found.several = len({run.name.study for run in usable}) > 1
    for run, folder in zip(usable, folders, strict=True):
        if (plan := plans[folder]) is not None:
            found.plans.setdefault(run.name.study, plan)
            if reason := _not_planned(plan, run.name):
                found.left_out.append(LeftOut(run.directory, reason))
                continue
            if _is_stopped(plan, run.name, usable):
                reason = "halving stopped its variant, so other seeds have no result"
                found.left_out.append(LeftOut(run.directory, reason))
                continue
        label = found.label(run.name.study, run.name.variant)
        seeds = found.runs.setdefault(label, {})
        if (other := seeds.get(run.name.seed)) is not None:
            raise RunDirectoryError(
                f"{other.directory} and {run.directory} are both seed {run.name.seed} of the "
                f"variant {label}; name one of them only, or rename the folder of its variant"
            )
        seeds[run.name.seed] = run
    if not found.runs:
        raise RunDirectoryError(_no_runs(paths, found.left_out))
    _order(found)
    _move_stopped(found, plans)
    found.left_out += _planned_and_missing(plans)
    return found


def _study_folder(run: StoredRun) -> Path:
    return Path(os.path.abspath(run.directory)).parent.parent


def _no_runs(paths: Sequence[Path], left_out: Sequence[LeftOut]) -> str:
    where = ", ".join(map(str, paths))
    if not left_out:
        return f"there is no run under {where}; give folders that attnkit run has written"
    lines = [f"  {run.directory}: {run.reason}" for run in left_out]
    return "\n".join([f"no run under {where} can be compared:", *lines])


def _not_planned(plan: PlanFile, name: RunName) -> str | None:
    if name.variant not in plan.variants:
        return f"the study {plan.name} has no variant {name.variant}"
    if plan.seeds and name.seed not in plan.seeds:
        return f"the study {plan.name} has no seed {name.seed}"
    return None


def _is_stopped(plan: PlanFile, name: RunName, usable: Sequence[StoredRun]) -> bool:
    """True if halving has stopped a variant that has not been trained to the end since."""
    if name.variant not in plan.stopped:
        return False
    names = [run.name for run in usable if run.name.study == name.study]
    finished = {each.seed for each in names if each.variant == name.variant}
    return not finished.issuperset(plan.seeds)


def _move_stopped(found: GroupedRuns, plans: Mapping[Path, PlanFile | None]) -> None:
    """Moves the runs of stopped variants from those that are left out to `stopped`."""
    places = {os.path.abspath(run.directory): run for run in found.left_out}
    for folder, plan in plans.items():
        if plan is None:
            continue
        for variant, at in plan.stopped.items():
            runs = {
                seed: run.directory
                for seed in plan.seeds
                if (run := places.get(str(folder / variant / f"seed{seed}")))
            }
            label = found.label(folder.name, variant)
            if not runs or label in found.runs:
                continue
            rungs = (plan.halving or {}).get("rungs", at["rung"])
            found.stopped.append(StoppedVariant(label, at["rung"], rungs, at["step"], runs))
            found.left_out = [run for run in found.left_out if run.directory not in runs.values()]


def _order(found: GroupedRuns) -> None:
    """Sorts variants as in their plan; without a plan, `base` first, then by name."""

    def place(label: str) -> tuple:
        run = next(iter(found.runs[label].values()))
        study, variant = run.name.study, run.name.variant
        plan = found.plans.get(study)
        inside = list(plan.variants).index(variant) if plan else 0
        first = variant != (plan.base if plan else "base")
        return (by_number(study), first, inside, by_number(variant))

    found.runs = {
        label: dict(sorted(found.runs[label].items())) for label in sorted(found.runs, key=place)
    }


def _planned_and_missing(plans: Mapping[Path, PlanFile | None]) -> list[LeftOut]:
    """Lists the runs of a plan that have no directory yet, and why."""
    return [
        LeftOut(directory, why_it_failed(folder, variant, seed) or "planned, not started yet")
        for folder, plan in plans.items()
        if plan is not None
        for variant in plan.variants
        for seed in plan.seeds
        if not ((directory := folder / variant / f"seed{seed}") / RECIPE).is_file()
    ]
