"""Finds what makes a comparison unfair: other data, a larger budget, an easier objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnkit.ablation.plan_file import PlanFile
from attnkit.ablation.stored_run import StoredRun

LONGEST_WORD = 48
"""Characters of a name that are shown; a digest has 64."""

TOLERANCE = 0.01
"""Counts within this relative difference are treated as equal."""

SEES_ANSWERS = (
    "its predictions see the tokens that they predict, so its loss is not a language model's"
)


def sees_what_it_predicts(run: StoredRun) -> bool:
    """True if the run's record states that predictions see their own targets."""
    return run.record.get("loss_is_language_modeling") is False


def task_of(run: StoredRun) -> str:
    """Returns the task of a run."""
    return str(run.record.get("task", ""))


def remarks_of(
    runs: Sequence[StoredRun], base: Sequence[StoredRun], plan: PlanFile | None
) -> tuple[str, ...]:
    """Returns what a reader must know before trusting the row of a variant.

    Args:
        runs: of the variant, one per seed.
        base: the runs that they are compared with; the same ones for the base itself.
        plan: of the study, if it has one.
    """
    remarks = [SEES_ANSWERS] if any(map(sees_what_it_predicts, runs)) else []
    if shares := {share for run in runs if (share := run.record.get("unknown_share"))}:
        remarks.append(f"{max(shares):.2%} of its validation tokens are unknown to its vocabulary")
    variant = runs[0].name.variant
    if plan is not None:
        if keys := plan.tuned.get(variant):
            remarks.append(_tuned(keys, plan.edges.get(variant)))
        if keys := plan.changed_to_match.get(variant):
            remarks.append(f"changed to match {plan.match}: {_words(keys)}")
    if plan is None or plan.budget is None:
        remarks += [
            f"seed {run.name.seed} stopped early, at step {run.record['steps']:,}"
            for run in runs
            if run.record.get("status") == "stopped"
        ]
    if runs[0] is base[0]:
        return tuple(remarks)
    theirs = {run.name.seed: run for run in base}
    pairs = [(run, theirs[run.name.seed]) for run in runs if run.name.seed in theirs]
    if pairs and len(pairs) < max(len(runs), len(base)):
        seeds = ", ".join(str(run.name.seed) for run, _ in pairs)
        remarks.append(f"paired over the seeds that both have: {seeds}")
    if not pairs:
        pairs = [(runs[0], base[0])]
    if tasks := {(a, b) for run, other in pairs if (a := task_of(run)) != (b := task_of(other))}:
        ours, theirs = min(tasks)
        remarks.append(f"trains another task: {ours}, the base {theirs}")
    elif parts := _other_parts(pairs):
        remarks.append(f"other data than the base ({', '.join(parts)})")
    if parts := {(a, b) for run, other in pairs if (a := _part(run)) != (b := _part(other))}:
        ours, theirs = min(parts)
        remarks.append(f"validated on another part of the split: {ours}, the base on {theirs}")
    for key, what in (
        ("steps", "steps"),
        ("tokens", "training tokens"),
        ("parameters", "parameters"),
    ):
        ours = sum(run.record[key] for run, _ in pairs) / len(pairs)
        of_base = sum(other.record[key] for _, other in pairs) / len(pairs)
        if abs(ours - of_base) > TOLERANCE * of_base:
            remarks.append(
                f"{what}: {ours:,.0f}, the base {of_base:,.0f} ({_change(ours, of_base)})"
            )
    remarks += dict.fromkeys(remark for run, other in pairs for remark in _machine(run, other))
    return tuple(remarks)


def _tuned(chosen: dict[str, Any], edge: str | None) -> str:
    if edge is None:
        return f"tuned: {_words(chosen)}"
    return (
        f"not tuned: the best candidate is at an end of the grid ({edge}, {_words(chosen)}), "
        "a better one may be beyond it"
    )


def _part(run: StoredRun) -> str:
    """Returns the part of the validation split that the final numbers are from."""
    part, share = run.record.get("validation_part", "all"), run.record.get("validation_share", 1)
    return str(part) if share == 1 else f"{share:.1%} of {part}"


def _change(ours: float, base: float) -> str:
    if not base:
        return "the base has none"
    share = ours / base
    return f"{share:.1f} times" if share >= 2 else f"{100 * (share - 1):+.1f} %"


def without_paths(content: Any) -> Any:
    """Returns the data's description without file paths."""
    if isinstance(content, dict):
        return {key: without_paths(value) for key, value in content.items() if key != "path"}
    return [without_paths(item) for item in content] if isinstance(content, list) else content


def _other_parts(pairs: Sequence[tuple[StoredRun, StoredRun]]) -> list[str]:
    """Returns the parts of the data that differ in any pair, with the first readable difference."""
    found: dict[str, str] = {}
    for pair in pairs:
        ours, base = (run.environment.get("data") for run in pair)
        if ours == base:
            continue
        mine, theirs = (
            without_paths(each) if isinstance(each, dict) else {} for each in (ours, base)
        )
        for name in (*mine, *theirs):
            if (a := mine.get(name)) != (b := theirs.get(name)) and name not in found:
                found[name] = name + _in_words(a, b)
    return list(found.values())


def _in_words(ours: Any, base: Any) -> str:
    """Returns the first readable difference of two descriptions: a version, a name."""
    if isinstance(ours, dict) and isinstance(base, dict):
        for key, value in ours.items():
            other = base.get(key)
            words = isinstance(value, str) and isinstance(other, str)
            if words and value != other and len(value) <= LONGEST_WORD:
                return f" ({key} {value}, the base {other})"
    return ""


def _machine(run: StoredRun, base: StoredRun) -> list[str]:
    """Reports other hardware or another torch, which make speed and memory incomparable."""
    # Runs of earlier versions know a processor as `cpu` alone.
    is_known = all("device" in each.environment for each in (run, base))
    ours, theirs = (
        {
            "device": (each.environment if is_known else each.record).get("device"),
            "precision": each.record.get("precision"),
            "torch": each.environment.get("packages", {}).get("torch"),
        }
        for each in (run, base)
    )
    other = [f"{key} {ours[key]} (base {theirs[key]})" for key in ours if ours[key] != theirs[key]]
    return [f"{', '.join(other)}: do not compare speed or memory"] if other else []


def _words(keys: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in keys.items())
