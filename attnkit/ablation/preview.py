"""Prints a table of the runs of a study, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnkit.ablation.grids import Changes
from attnkit.ablation.halving import num_survivors, rung_steps, share_of_steps
from attnkit.ablation.output import print_fitting
from attnkit.ablation.plan import Plan, as_overrides, side_effects
from attnkit.ablation.study import Study
from attnkit.ablation.tables import short
from attnkit.ablation.timing import Timing
from attnkit.ablation.trial import Trial
from attnkit.ablation.tuning import Candidate

COLUMNS = ("variant", "parameters", "FLOPs/token", "cache B/token", "steps", "time/run")

ONE_THREAD_IS_FASTER = 0.9
"""One thread is recommended if its share of the time of a step is below this."""

console = Console(highlight=False, soft_wrap=True)


def show_plan(
    study: Study,
    trials: list[Trial],
    tuning: list[Candidate],
    timings: Mapping[str, Timing] | None,
    workers: int | None,
) -> None:
    """Prints one row per variant, the keys that it changes, and the number of runs.

    Args:
        study: the planned study.
        trials: of the study.
        tuning: the runs that choose among the candidates.
        timings: variant -> the duration of its steps here; None: not measured.
        workers: number of simultaneous runs here; None: the runs are on other machines.
    """
    plan = study.plan
    rows: list[list[str]] = []
    firsts = {trial.recipe.variant: trial for trial in reversed(trials)}
    for variant in plan.variants:
        recipe = firsts[variant.name].recipe
        costs = study.count(recipe)
        steps = recipe.trainer.max_steps
        timing = timings.get(variant.name) if timings and workers else None
        took = None if timing is None else timing.seconds(steps)
        star = " *" if variant.name == plan.base else ""
        cells = [
            variant.name + star,
            f"{costs.parameters:,}",
            short(costs.flops),
            f"{costs.cache_bytes / costs.max_seq_len:,.0f}",
            f"{steps:,}",
            "unknown" if took is None else _clock(took),
        ]
        rows.append(cells)
    print_fitting(_table(rows, range(6)), [_table(rows, [0, 1, 2, 3]), _table(rows, [0, 4, 5])])
    for variant in plan.variants:
        if words := _words(variant.changes, variant.matched):
            console.print(f"{variant.name}: {words}", markup=False)
    for line in side_effect_lines(plan):
        console.print(line, markup=False)
    console.print()
    for line in _notes(study, trials, tuning, timings, workers):
        console.print(line, markup=False)


def _table(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for i in columns:
        style, justify = ("cyan", "left") if i == 0 else (None, "right")
        table.add_column(COLUMNS[i], style=style, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[i]) for i in columns))
    return table


def side_effect_lines(plan: Plan) -> list[str]:
    """Describes the changes of keys that variants do not name."""
    return [
        f"{name}: this also changes {', '.join(changes)}; set the key to choose its value"
        for name, changes in side_effects(plan).items()
    ]


def _words(changes: Changes, matched: Changes) -> str:
    words = [" ".join(as_overrides(changes))] if changes else []
    if matched:
        words.append(f"to match: {' '.join(as_overrides(matched))}")
    return "; ".join(words)


def _notes(
    study: Study,
    trials: list[Trial],
    tuning: list[Candidate],
    timings: Mapping[str, Timing] | None,
    workers: int | None,
) -> list[str]:
    plan = study.plan
    notes = [f"* the base; {len(trials)} runs: {len(plan.variants)} variants x {_seeds(study)}"]
    others, halving = len(plan.variants) - 1, plan.options.halving
    if halving:
        notes += _about_rungs(study, trials)
    if plan.options.match != "none":
        notes.append(f"{plan.options.match} are those of the base, within 1 %")
    if tuning:
        notes.append(
            f"{len(tuning)} tuning runs choose among the candidates, on the first half of the "
            "validation split; the study's numbers are those of the second half"
        )
        words = dict.fromkeys(" ".join(as_overrides(each.changes)) for each in tuning)
        notes.append(f"candidates: {', '.join(words)}")
    done = sum(trial.is_finished for trial in trials)
    if done:
        notes.append(f"{done} of the runs are already finished")
    if timings and not workers:
        notes.append(
            "steps are computed from this machine's speed; it is measured again where the runs are"
        )
    if timings and workers:
        active = [trial for trial in trials if trial.recipe.variant not in study.stopped]
        runs = [(trial.recipe.variant, trial) for trial in active]
        runs += [(candidate.variant, candidate.trial) for candidate in tuning]
        missing = [(name, trial) for name, trial in runs if not trial.is_finished]
        untimed = {name for name, _ in missing if name not in timings}
        trained = {plan.base: 1.0}  # a share of the steps
        share = share_of_steps(others, halving) if halving else 1.0
        times = [
            timings[name].seconds(round(trial.recipe.trainer.max_steps * trained.get(name, share)))
            for name, trial in missing
            if name not in untimed
        ]
        if times:
            total = max([sum(times) / workers, *times])
            noun = "one variant that was" if len(untimed) == 1 else f"{len(untimed)} that were"
            besides = f", and {noun} not timed" if untimed else ""
            notes.append(
                f"about {_clock(total)} with {workers} at a time{besides}, estimated from a few "
                "steps and validations of each variant; without maps, samples and beam search"
            )
        notes += [line for timing in timings.values() if (line := _about_threads(timing))]
    return notes


def _about_rungs(study: Study, trials: Sequence[Trial]) -> Iterator[str]:
    """Yields how many variants train to each rung."""
    plan, options = study.plan, study.plan.options.halving
    assert options is not None
    base = next(trial.recipe for trial in trials if trial.recipe.variant == plan.base)
    left = len(plan.variants) - 1
    for i, step in enumerate(rung_steps(base, options), start=1):
        survivors = num_survivors(left, options)
        yield (
            f"rung {i} of {options.rungs}, after {step:,} steps of the base: the best "
            f"{survivors} of {left} variants go on besides the base"
        )
        left = survivors
    if study.stopped:
        yield f"stopped so far: {', '.join(study.stopped)}"


def _about_threads(timing: Timing) -> str | None:
    """Returns advice if steps are clearly faster with one thread."""
    one, many = timing.one_thread, timing.many_threads
    if one is None or many is None or one > ONE_THREAD_IS_FASTER * many:
        return None
    return (
        f"one thread is faster here: {one:.2g} s per step instead of {many:.2g}; set "
        "OMP_NUM_THREADS=1, or 'ablation.launcher={name: local, threads: 1}'"
    )


def _seeds(study: Study) -> str:
    count = len(study.plan.seeds)
    return f"{count} seed{'s' if count > 1 else ''}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
