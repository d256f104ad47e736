"""Successive halving with paired seeds (Jamieson and Talwalkar 2016, arXiv:1502.07943): which
variants go on, decided from the validation curves on disk.

A stopped variant counts in Holm's correction as if its p value were 1. That can only raise the
corrected p values of the others: a halved study has no verdict that the whole one would not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from attnkit.ablation.comparison import is_lower_better
from attnkit.ablation.curves import VALIDATION, curve_tags
from attnkit.ablation.launch import Failure
from attnkit.ablation.study import Study
from attnkit.ablation.trial import Trial
from attnkit.recipe import Recipe, RecipeError
from attnkit.recipe.errors import Problem
from attnkit.recipe.listening import build_loggers
from attnkit.recipe.sections import HalvingOptions
from attnkit.tensorboard.scalars import read_scalars


def rung_steps(recipe: Recipe, options: HalvingOptions) -> list[int]:
    """Returns the steps of a recipe at which its variant may be stopped: validations, since their
    loss decides.

    Raises:
        ValueError: if two of them are equal, or the last one is the end; with the reason.
    """
    every, last = recipe.validate_every, recipe.trainer.max_steps
    shares = [options.keep**power for power in range(options.rungs - 1, 0, -1)]
    steps = [max(round(share * last / every), 1) * every for share in shares]
    if len(set(steps)) < len(steps) or steps[-1] >= last:
        words = ", ".join(f"{share * last:,.0f}" for share in shares)
        raise ValueError(
            f"too few steps for {options.rungs} rungs: they would end near steps {words} of "
            f"{last:,}, with a validation every {every:,}; lower validation.every_n_steps, or use "
            "fewer rungs"
        )
    return steps


def check_halving(study: Study) -> None:
    """Checks that a study with `ablation.halving` can be halved.

    Raises:
        RecipeError: if it cannot.
    """
    plan, options = study.plan, study.plan.options.halving
    if options is None:
        return
    message = None
    if len(plan.variants) < 3:
        count = len(plan.variants) - 1
        noun = "no variant" if count < 1 else "one variant"
        message = f"there is {noun} besides the base, so none can be stopped; remove the key"
    elif plan.recipe.trainer.max_time or (plan.options.budget and plan.options.budget.seconds):
        message = (
            "it counts steps, but these runs end by the clock, which restarts at each rung; "
            "use a budget of steps, tokens or FLOPs, and remove trainer.max_time"
        )
    elif not any(getattr(each, "files", ()) for _, each in build_loggers(plan.recipe)):
        message = "it reads the validation curves of the runs; add tensorboard to logging.to"
    else:
        try:
            for variant in plan.variants:
                rung_steps(study.recipe(variant.name), options)
        except ValueError as error:
            message = str(error)
    if message:
        raise RecipeError([Problem(plan.mark("halving"), "ablation.halving", message)])


def num_survivors(others: int, options: HalvingOptions) -> int:
    """Returns how many of the variants besides the base go on, at least one."""
    return max(1, math.ceil(others * options.keep - 1e-9))  # 0.07 * 100 is above 7


def survivors(
    values: Mapping[str, Mapping[int, float]],
    base: str,
    options: HalvingOptions,
    *,
    seeds: Sequence[int],
    lower_is_better: bool,
) -> list[str]:
    """Returns the variants that go on, in their order: the base, and the best of the others by the
    mean over all seeds.

    Args:
        values: variant -> seed -> its value at the rung. A variant that lacks one does not go on.
        base: never stopped.
        options: with the share of variants that go on.
        seeds: of the study.
        lower_is_better: of the values.
    """
    others = [name for name in values if name != base]
    means = {
        name: sum(values[name][seed] for seed in seeds) / len(seeds)
        for name in others
        if all(math.isfinite(values[name].get(seed, math.nan)) for seed in seeds)
    }
    sign = 1 if lower_is_better else -1
    ranked = sorted(means, key=lambda name: sign * means[name])  # equal ones keep their order
    remaining = {base, *ranked[: num_survivors(len(others), options)]}
    return [name for name in values if name in remaining]


def train_by_rungs(
    study: Study,
    names: Iterable[str],
    run: Callable[[Sequence[Trial], str], Sequence[Failure]],
    write: Callable[[str], None],
) -> list[Failure]:
    """Trains the variants of a study from rung to rung, and records which were stopped.

    Reads the curves on disk again at each rung, so that a study that was killed, or has more
    variants or seeds than before, continues as if it had been trained in one session.

    Args:
        study: the study, whose `stopped` is updated and written at each rung.
        names: of the variants to train.
        run: trains some trials, given the prefix of their lines; returns those that failed.
        write: prints a line.
    """
    plan, options = study.plan, study.plan.options.halving
    assert options is not None
    failures: list[Failure] = []
    active = list(names)
    recipes = {name: study.recipe(name) for name in active}
    steps = {name: rung_steps(recipe, options) for name, recipe in recipes.items()}

    def stage(prefix: str, until: Callable[[str], int | None]) -> None:
        lost = {failure.key for failure in failures}
        trials = [
            Trial.of(recipes[name], seed, until(name)) for seed in plan.seeds for name in active
        ]
        failures.extend(run([trial for trial in trials if trial.key not in lost], prefix))

    stopped: dict[str, dict[str, int]] = {}
    for i in range(options.rungs - 1):
        stage(f"rung {i + 1} of {options.rungs}: ", lambda name, i=i: steps[name][i])
        paused = [
            Trial.of(recipes[name], seed, steps[name][i]) for name in active for seed in plan.seeds
        ]
        values, lower = _values(plan.options.metric, [each for each in paused if each.is_done])
        measured = {name: values.get(name, {}) for name in active}
        remaining = survivors(measured, plan.base, options, seeds=plan.seeds, lower_is_better=lower)
        active = [name for name in active if name in remaining]
        halved = [
            name
            for name, of_seeds in measured.items()
            if name not in remaining
            and len(of_seeds) == len(plan.seeds)  # otherwise it has failed
            and not all(Trial.of(recipes[name], seed).is_finished for seed in plan.seeds)
        ]
        stopped |= {name: {"rung": i + 1, "step": steps[name][i]} for name in halved}
        study.stopped = dict(stopped)
        study.write()
        words = ", ".join(halved) or "none"
        write(f"rung {i + 1} of {options.rungs}: {len(remaining)} variants go on; stopped: {words}")
    stage("", lambda name: None)
    return failures


def _values(metric: str, trials: Sequence[Trial]) -> tuple[dict[str, dict[int, float]], bool]:
    """Returns variant -> seed -> the last value before a trial's pause, from the curve that stands
    for a metric, and whether a lower one is better.
    """
    tags = curve_tags(metric)
    read = [read_scalars(trial.directory, tags) for trial in trials]
    tag = next((tag for tag in tags if all(tag in curves for curves in read)), VALIDATION)
    values: dict[str, dict[int, float]] = {}
    for trial, curves in zip(trials, read, strict=True):
        points = curves.get(tag)
        if points is not None and (until := points.steps <= trial.until).any():
            of_variant = values.setdefault(trial.recipe.variant, {})
            of_variant[trial.recipe.seed] = float(points.values[until][-1])
    return values, tag == VALIDATION or is_lower_better(metric)


def share_of_steps(others: int, options: HalvingOptions) -> float:
    """Returns the share of their steps that the variants besides the base train, on average."""
    total, before, left = 0.0, 0.0, others
    for power in range(options.rungs - 1, -1, -1):
        total += left * (options.keep**power - before)
        before, left = options.keep**power, num_survivors(left, options)
    return total / others
