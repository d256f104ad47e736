"""`attnkit compare`: turns finished runs into one table. Reads files only and needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attnkit.ablation.comparison import Comparison, Row, Verdict, is_lower_better
from attnkit.ablation.estimates import LEVEL, Estimate, holm, paired_difference, t_estimate
from attnkit.ablation.fairness import remarks_of, sees_what_it_predicts, task_of
from attnkit.ablation.grouped_runs import GroupedRuns, group_runs
from attnkit.ablation.metrics import NotReached, NoValue, read_metric
from attnkit.ablation.speed import differences
from attnkit.ablation.stored_run import LeftOut, StoredRun
from attnkit.registry import suggest
from attnkit.storage.run_directory import RunDirectoryError

LANGUAGE_MODELING = ("loss", "perplexity", "bits_per_byte")
"""Metrics that are meaningless if a prediction has seen its answer."""


def compare_runs(
    paths: str | Path | Sequence[str | Path],
    *,
    base: str | None = None,
    metric: str | Sequence[str] | None = None,
    higher_is_better: bool | None = None,
) -> Comparison:
    """Compares all finished runs at and below some paths.

    Args:
        paths: directories of runs, variants or studies; one or several.
        base: the variant that the others are compared with; None: from the study's plan, or the one
            called `base`, or the first.
        metric: key of a run's metrics, or a number that is taken from its curves
            (`attnkit.ablation.metrics`); None: from the plan, or `loss`. With several, the result
            compares by the first one, and its `others` by the others; all verdicts are corrected
            together.
        higher_is_better: of the metrics; None: from the plan, or inferred from their names.

    Raises:
        RunDirectoryError: if a path is not a folder, no finished run is there, two runs have the
            same name, a plan cannot be read, or base or metric are unknown.
    """
    single = isinstance(paths, str | Path)
    found = group_runs([Path(paths)] if single else [Path(path) for path in paths])
    return compare_grouped(found, base=base, metric=metric, higher_is_better=higher_is_better)


def compare_grouped(
    found: GroupedRuns,
    *,
    base: str | None = None,
    metric: str | Sequence[str] | None = None,
    higher_is_better: bool | None = None,
) -> Comparison:
    """Compares runs that have been read; see `compare_runs`. Does not change `found`.

    Raises:
        RunDirectoryError: if base or metric are unknown, or no run has the metric.
    """
    metrics = [metric] if metric is None or isinstance(metric, str) else [*metric] or [None]
    if repeated := [name for i, name in enumerate(metrics) if name in metrics[:i]]:
        raise RunDirectoryError(f"--metric {repeated[0]} is given twice")
    first, *others = judged([_compared(found, base, name, higher_is_better) for name in metrics])
    return replace(first, others=tuple(others))


def _compared(
    found: GroupedRuns, base: str | None, metric: str | None, higher_is_better: bool | None
) -> Comparison:
    """Compares by one metric, without verdicts."""
    runs = {label: dict(seeds) for label, seeds in found.runs.items()}
    found = replace(found, runs=runs, left_out=list(found.left_out))
    metric, lower_is_better = _metric(found, metric, higher_is_better)
    unreached = _take_from_curves(metric, found, higher_is_better)
    _leave_out_without(metric, found)
    base = _base(found, base)
    return Comparison(
        title=", ".join(sorted({run.name.study for run in found.all()})),
        metric=metric,
        lower_is_better=lower_is_better,
        base=base,
        rows=_rows(found, base, metric, unreached),
        stopped=tuple(found.stopped),
        left_out=found.left_out,
    )


def _metric(
    found: GroupedRuns, metric: str | None, higher_is_better: bool | None
) -> tuple[str, bool]:
    """Returns the metric's name, and whether a lower value is better."""
    plans = list(found.plans.values())
    if metric is None:
        metrics = {plan.metric: None for plan in plans} or {"loss": None}
        if len(metrics) > 1:
            raise RunDirectoryError(
                f"the studies have different metrics ({', '.join(metrics)}); choose one with "
                "--metric"
            )
        metric = next(iter(metrics))
    from_curve = read_metric(metric, higher_is_better)
    if from_curve is not None:
        return metric, from_curve.lower_number_is_better
    if higher_is_better is not None:
        return metric, not higher_is_better
    for plan in plans:
        if plan.metric == metric:
            return metric, plan.lower_is_better
    declared = {run.record.get("lower_is_better", {}).get(metric) for run in found.all()} - {None}
    return metric, declared.pop() if len(declared) == 1 else is_lower_better(metric)


def _leave_out_without(metric: str, found: GroupedRuns) -> None:
    """Leaves out the runs without a finite value of a metric."""
    known = {name: None for run in found.all() for name in run.metrics}
    if metric not in known:
        raise RunDirectoryError(
            f"--metric {metric}: no run has it{suggest(metric, list(known))} (known: "
            f"{', '.join(known)})"
        )
    for label, runs in list(found.runs.items()):
        for seed, run in list(runs.items()):
            value = run.metrics.get(metric)
            if not isinstance(value, int | float) or not math.isfinite(value):
                reason = f"it has no {metric}" if value is None else f"its {metric} is {value}"
                found.left_out.append(LeftOut(run.directory, reason))
                del runs[seed]
        if not runs:
            del found.runs[label]
    if not found.runs:
        lines = [f"  {run.directory}: {run.reason}" for run in found.left_out]
        raise RunDirectoryError("\n".join([f"no run has a finite {metric}:", *lines]))


def _base(found: GroupedRuns, base: str | None) -> str:
    labels = list(found.runs)
    if base is None:
        study = next(iter(found.runs[labels[0]].values())).name.study
        plan = found.plans.get(study)
        base = found.label(study, plan.base if plan else "base")
        if base in found.runs or plan is None:
            return base if base in found.runs else labels[0]
        raise RunDirectoryError(
            f"the base `{base}` has no finished run with this metric; finish one, or choose "
            f"with --base among {', '.join(labels)}"
        )
    if base in [each.variant for each in found.stopped]:
        raise RunDirectoryError(
            f"--base {base}: halving stopped it, so it has no final numbers; choose among "
            f"{', '.join(labels)}"
        )
    if base not in found.runs:
        raise RunDirectoryError(
            f"--base {base}: no such variant{suggest(base, labels)} (known: {', '.join(labels)})"
        )
    return base


def _rows(found: GroupedRuns, base: str, metric: str, unreached: Mapping[str, int]) -> list[Row]:
    """Returns one row per variant, without verdicts.

    Args:
        found: the runs with the metric.
        base: label of the base.
        metric: the metric.
        unreached: label -> number of seeds that do not reach the metric's threshold.
    """
    reference = list(found.runs[base].values())
    rows = [_row(found, label, reference, label == base, metric) for label in found.runs]
    for i, row in enumerate(rows):
        if not row.is_base and (unreached.get(row.variant) or unreached.get(base)):
            # The mean over the seeds that reach it would be too good.
            rows[i] = replace(row, no_verdict="not reached by all")
    return rows


def judged(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adds the verdicts; those of all comparisons are corrected together.

    A variant that halving has stopped counts as if its p value were 1: it was chosen from the same
    data, and without it the correction of the others would be too small.
    """
    tested = [
        (k, i, row.difference)
        for k, comparison in enumerate(comparisons)
        for i, row in enumerate(comparison.rows)
        if row.difference is not None and row.difference.p is not None and row.no_verdict is None
    ]
    unknown = sum(len(comparison.stopped) for comparison in comparisons)
    words = verdicts(
        [(difference, comparisons[k].lower_is_better) for k, _, difference in tested], unknown
    )
    rows = [list(comparison.rows) for comparison in comparisons]
    for (k, i, _), (p, verdict) in zip(tested, words, strict=True):
        rows[k][i] = replace(rows[k][i], p_holm=p, verdict=verdict)
    return [
        replace(comparison, rows=judged_rows, num_verdicts=len(tested) and len(tested) + unknown)
        for comparison, judged_rows in zip(comparisons, rows, strict=True)
    ]


def verdicts(
    differences: Sequence[tuple[Estimate, bool]], unknown: int = 0
) -> list[tuple[float, Verdict]]:
    """Judges differences to a base together.

    Args:
        differences: each with its p value, and True if a lower number is better.
        unknown: number of further differences that are not known, but count in the correction.

    Returns:
        For each difference, its p value after Holm's correction, and the verdict.
    """
    found: list[tuple[float, Verdict]] = []
    p_values = holm([*(difference.p or 0.0 for difference, _ in differences), *[1.0] * unknown])
    for (difference, lower), p in zip(differences, p_values[: len(differences)], strict=True):
        word: Verdict = "better" if (difference.mean < 0) == lower else "worse"
        found.append((p, word if p < LEVEL else "within noise"))
    return found


def _take_from_curves(
    metric: str, found: GroupedRuns, higher_is_better: bool | None
) -> dict[str, int]:
    """Adds a metric that is taken from curves to the runs, and leaves out those without it.

    Returns:
        Label -> number of its seeds that do not reach the metric's threshold.
    """
    from_curve = read_metric(metric, higher_is_better)
    unreached: dict[str, int] = {}
    if from_curve is None:
        return unreached
    for label, runs in list(found.runs.items()):
        for seed, run in list(runs.items()):
            try:
                value = from_curve.value(run)
            except NoValue as reason:
                found.left_out.append(LeftOut(run.directory, str(reason)))
                del runs[seed]
                if isinstance(reason, NotReached):
                    unreached[label] = unreached.get(label, 0) + 1
            else:
                runs[seed] = replace(run, metrics={**run.metrics, metric: value})
        if not runs:
            del found.runs[label]
    if not found.runs:
        lines = [f"  {run.directory}: {run.reason}" for run in found.left_out]
        raise RunDirectoryError("\n".join([f"--metric {metric}: no run has it:", *lines]))
    return unreached


def _row(
    found: GroupedRuns, label: str, reference: list[StoredRun], is_base: bool, metric: str
) -> Row:
    runs = list(found.runs[label].values())
    values = {run.name.seed: float(run.metrics[metric]) for run in runs}
    theirs = {run.name.seed: float(run.metrics[metric]) for run in reference}
    paired = [values[seed] - theirs[seed] for seed in values if seed in theirs]
    difference = paired_difference(paired) if paired and not is_base else None
    return Row(
        variant=label,
        is_base=is_base,
        runs=tuple(runs),
        values=values,
        value=t_estimate(list(values.values())),
        difference=difference,
        no_verdict=None if is_base else _no_verdict(runs, reference, metric, difference),
        remarks=remarks_of(runs, reference, found.plans.get(runs[0].name.study)),
        speed_remarks=() if is_base else differences(runs, reference),
    )


def _no_verdict(
    runs: list[StoredRun], reference: list[StoredRun], metric: str, difference: Estimate | None
) -> str | None:
    """Returns why a variant has no verdict; None if it has one."""
    if len({task_of(run) for run in (*runs, *reference)}) > 1:
        return "other task"
    kinds = {sees_what_it_predicts(run) for run in (*runs, *reference)}
    if metric in LANGUAGE_MODELING and len(kinds) > 1:
        return "not comparable"
    if difference is None:
        return "no seed in common"
    return "one seed: no verdict" if difference.n == 1 else None
