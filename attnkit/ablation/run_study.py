"""Runs a study from plan to table: plan -> match -> budget -> tune -> trials -> table."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from attnkit.ablation.budget import budget_of
from attnkit.ablation.costs import CostModel
from attnkit.ablation.halving import check_halving, train_by_rungs
from attnkit.ablation.launch import Failure, Launch
from attnkit.ablation.launchers.base import Launcher
from attnkit.ablation.launchers.local import Local
from attnkit.ablation.match import matched
from attnkit.ablation.mean_runs import FOLDER as FOLDER_OF_MEANS
from attnkit.ablation.mean_runs import write_mean
from attnkit.ablation.plan import Plan, read_plan
from attnkit.ablation.preview import show_plan, side_effect_lines
from attnkit.ablation.study import Study, check_parts
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.timing import PREVIEW_SECONDS, Timing, measure
from attnkit.ablation.trial import Trial
from attnkit.ablation.trial_files import FOLDER
from attnkit.ablation.tuning import METRIC, candidates, choose
from attnkit.recipe import Recipe, RecipeError
from attnkit.recipe.errors import Problem
from attnkit.recipe.listening import build_callbacks, build_loggers
from attnkit.registry import LAUNCHERS
from attnkit.storage import run_directory

DIVERGED = 3
"""Exit code of a run that diverged."""


def run_study(
    recipe: Recipe, *, check: bool = True, only: Mapping[str, Collection[int]] | None = None
) -> tuple[Path, list[Failure]]:
    """Runs the trials of a study that are not finished yet.

    Args:
        recipe: a recipe with a section `ablation`.
        check: refuse plugins that break a law.
        only: variants to run to the end, each with its seeds; None: all of them, with the
            recipe's halving.

    Returns:
        The study's folder, and the trials that failed.

    Raises:
        RecipeError: if the plan is invalid; nothing is written in that case.
        RunDirectoryError: if the folder belongs to another study, or another process runs it.
        DataError: if data is missing or invalid.
        LauncherError: if the launcher is not available here.
        StudyStopped: after SIGINT or SIGTERM.
    """
    study, launcher = prepare_study(recipe)
    with run_directory.in_use(study.directory), closing(launcher):
        measure_step_seconds(study, launcher)
        study.write()
        failures: list[Failure] = []
        progress = Progress(METRIC, "tuning ")
        for line in side_effect_lines(study.plan):
            progress.write(line)
        names = {variant.name for variant in study.plan.variants}
        selected = names if only is None else names & set(only)
        tuning = [candidate for candidate in candidates(study) if candidate.variant in selected]
        if tuning:
            failed = Launch(launcher, progress, check).run(
                [candidate.trial for candidate in tuning]
            )
            failures += [failure for failure in failed if failure.code != DIVERGED]
        without = choose(study, tuning, progress.write)
        failures += [Failure(name, DIVERGED, "has no candidate with a loss") for name in without]
        study.write()
        selected -= set(without)

        def run(trials: Sequence[Trial], stage: str = "") -> list[Failure]:
            launch = Launch(launcher, Progress(study.plan.options.metric, stage), check)
            if study.plan.options.mean_curves:
                launch.on_finish = lambda trial: write_mean(study.directory, trial.recipe.variant)
            return launch.run(trials)

        if study.plan.options.halving and only is None:
            names = [each.name for each in study.plan.variants if each.name in selected]
            failures += train_by_rungs(study, names, run, progress.write)
        else:
            trials = [each for each in study.trials() if each.recipe.variant in selected]
            failures += run(
                [x for x in trials if only is None or x.recipe.seed in only[x.recipe.variant]]
            )
        if study.plan.options.mean_curves:  # for seeds that an earlier session trained
            for name in sorted(selected):
                if not (study.directory / FOLDER_OF_MEANS / name).exists():
                    write_mean(study.directory, name)
    return study.directory, failures


def preview(recipe: Recipe) -> None:
    """Prints the runs of a study. Writes nothing.

    Raises:
        RecipeError: if the plan is invalid.
        RunDirectoryError: if the folder belongs to another study.
        DataError: if data is missing or invalid.
    """
    study, launcher = prepare_study(recipe)
    is_local = isinstance(launcher, Local)
    timings = None
    if is_local or _budget_is_seconds(study):
        here = launcher if is_local else Local(1)
        with tempfile.TemporaryDirectory() as place, closing(here):
            limit = None if _budget_is_seconds(study) else PREVIEW_SECONDS
            timings = _timings(study, here, Path(place), limit=limit)
        steps = {name: timing.step for name, timing in timings.items()}
        study.step_seconds = {**steps, **study.step_seconds} if _budget_is_seconds(study) else {}
    workers = launcher.workers if is_local else None
    show_plan(study, study.trials(), candidates(study), timings, workers)


def prepare_study(recipe: Recipe) -> tuple[Study, Launcher]:
    """Returns the study, after every check that is possible before training, and its launcher."""
    build_loggers(recipe)
    build_callbacks(recipe)
    plan = read_plan(recipe)
    check_parts(plan)
    budget_of(plan)
    launcher = build_launcher(plan)
    count = CostModel()
    study = Study(matched(plan, count), count)
    study.load_plan()
    check_halving(study)
    if not _budget_is_seconds(study):
        candidates(study)
        for trial in study.trials():
            if not plan.options.tune or trial.recipe.variant in study.tuned:
                trial.check_same()
    return study, launcher


def build_launcher(plan: Plan) -> Launcher:
    """Builds the launcher that the plan names.

    Raises:
        RecipeError: if its options are invalid.
    """
    try:
        return LAUNCHERS.build(plan.options.launcher, plan.options.workers)
    except ValueError as error:
        mark = plan.mark("launcher")
        raise RecipeError([Problem(mark, "ablation.launcher", str(error))]) from None


def measure_step_seconds(study: Study, launcher: Launcher) -> None:
    """Measures step times once for the whole study, if its budget is in seconds."""
    missing = [v.name for v in study.plan.variants if v.name not in study.step_seconds]
    if not _budget_is_seconds(study) or not missing:
        return
    timings = _timings(study, launcher, study.directory / FOLDER / "timing", missing)
    study.step_seconds |= {name: timing.step for name, timing in timings.items()}


def _budget_is_seconds(study: Study) -> bool:
    budget = budget_of(study.plan)
    return budget is not None and budget[0] == "seconds"


def _timings(
    study: Study,
    launcher: Launcher,
    place: Path,
    names: Sequence[str] = (),
    limit: float | None = None,
) -> dict[str, Timing]:
    """Times the variants before anything is tuned."""
    plan = study.plan
    chosen = [variant for variant in plan.variants if not names or variant.name in names]
    recipes = {variant.name: plan.recipe_of(variant) for variant in chosen}
    return measure(recipes, launcher, place, limit)
