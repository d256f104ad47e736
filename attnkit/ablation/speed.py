"""Tests whether two variants ran under the same conditions, so that speeds can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnkit.ablation.stored_run import StoredRun

NEIGHBOURS = 0.25
"""Largest difference of the mean number of neighbouring runs between comparable variants."""

SHARE = 0.1
"""Largest difference between comparable interruptions, as a share of a run's steps: halving stops
at validations.
"""


def differences(runs: Sequence[StoredRun], base: Sequence[StoredRun]) -> tuple[str, ...]:
    """Returns the differences to the conditions of the base's runs; empty: there are none."""
    found = [
        _differ("device", _names(runs, _device), _names(base, _device)),
        _differ("threads", _names(runs, _threads), _names(base, _threads)),
        _about_neighbours(_neighbours(runs), _neighbours(base)),
    ]
    found.append(_about_interruptions(runs, {run.name.seed: run for run in base}))
    return tuple(words for words in found if words)


def _differ(what: str, ours: str, base: str) -> str | None:
    return None if ours == base else f"{what} {ours}, the base {base}"


def _names(runs: Sequence[StoredRun], read: Any) -> str:
    return " and ".join(sorted({read(run) for run in runs}))


def _device(run: StoredRun) -> str:
    return str(run.record.get("device"))


def _threads(run: StoredRun) -> str:
    threads = run.environment.get("threads")
    for resumption in _resumptions(run):
        threads = resumption.get("threads", threads)
    return "unknown" if threads is None else str(threads)


def _neighbours(runs: Sequence[StoredRun]) -> float | None:
    """Returns the mean number of runs beside these on the same machine; None: unknown for a run."""
    counts = [run.environment.get("neighbours") for run in runs]
    known = [count for count in counts if isinstance(count, int | float)]
    return sum(known) / len(known) if len(known) == len(counts) else None


def _about_neighbours(ours: float | None, base: float | None) -> str | None:
    if ours is None or base is None:
        if ours is base:
            return None
    elif abs(ours - base) <= NEIGHBOURS:
        return None
    mine = "an unknown number of runs" if ours is None else f"{ours:.1f} runs"
    average = "" if ours is None else " on average"
    theirs = "unknown" if base is None else f"{base:.1f}"
    return f"{mine} beside it{average}, the base {theirs}"


def _about_interruptions(runs: Sequence[StoredRun], base: Mapping[int, StoredRun]) -> str | None:
    """Compares the steps at which runs of one seed were resumed: a speed is that of later steps."""
    found = []
    for run in runs:
        if (other := base.get(run.name.seed)) is None:
            continue
        ours, theirs = _resumed(run), _resumed(other)
        near = abs(_share(ours, run) - _share(theirs, other)) <= SHARE
        if bool(ours) != bool(theirs) or not near:
            words = [f"after step {steps[-1]:,}" if steps else "never" for steps in (ours, theirs)]
            found.append(f"seed {run.name.seed} {words[0]} (the base {words[1]})")
    return f"resumed: {', '.join(found)}" if found else None


def _resumed(run: StoredRun) -> list[int]:
    steps = [resumption.get("step") for resumption in _resumptions(run)]
    return [step for step in steps if isinstance(step, int)]


def _resumptions(run: StoredRun) -> list[dict[str, Any]]:
    listed = run.environment.get("resumed")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _share(steps: Sequence[int], run: StoredRun) -> float:
    return steps[-1] / max(run.record["steps"], 1) if steps else 0.0
