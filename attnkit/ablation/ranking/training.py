"""Trains the missing runs of a row, and reads what they say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnkit.ablation.curves import mean_curve
from attnkit.ablation.launch import Failure, Launch
from attnkit.ablation.launchers.base import Launcher
from attnkit.ablation.plan import plain_changes
from attnkit.ablation.ranking.cells import Cell
from attnkit.ablation.run_study import DIVERGED
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.trial import Trial
from attnkit.ablation.tuning import METRIC, choose, edge_of
from attnkit.tensorboard.scalars import read_scalars

STATED = ("loss", "accuracy")
"""What the names of a row's metrics begin with."""

CURVE = "loss/train"
POINTS = 30
"""Points of a row's curves."""


def train(
    cells: Mapping[str, Cell], launcher: Launcher
) -> tuple[dict[str, dict[str, Any]], list[Failure]]:
    """Trains the missing runs of a row, those of all tasks together.

    Args:
        cells: task -> cell, of one mechanism.
        launcher: starts the runs.

    Returns:
        Task -> what the row says about it, in plain types; and the runs without a result.

    Raises:
        StudyStopped: after SIGINT or SIGTERM.
        RunDirectoryError: if a run's folder contains something else.
    """
    name = next(iter(cells.values())).subject.name

    def launch(trials: Iterable[Trial], stage: str) -> list[Failure]:
        # The laws were asked when the cells were made.
        launched = Launch(launcher, Progress(METRIC, f"{name}: {stage} "), check=False)
        return launched.run(list(trials))

    failures: list[Failure] = []
    begun: set[str] = set()
    while rates := [
        candidate.trial
        for cell in cells.values()
        for candidate in cell.tried(begun)
        if candidate.trial.key not in begun
    ]:
        lost = launch(rates, "rates")
        failures += [failure for failure in lost if failure.code != DIVERGED]
        begun |= {trial.key for trial in rates}
    outcomes = {task: _tuned(cell, begun) for task, cell in cells.items()}
    chosen = [cell for task, cell in cells.items() if outcomes[task]["tuned"]]
    failures += launch((trial for cell in chosen for trial in cell.trials()), "seeds")
    for task, cell in cells.items():
        own = [failure for failure in failures if cell.owns(failure.key)]
        if not outcomes[task]["tuned"]:
            own.append(Failure(f"{name} {task}", DIVERGED, "has no learning rate with a loss"))
            failures.append(own[-1])
        outcomes[task] |= _measured(cell, own)
    return outcomes, failures


def _tuned(cell: Cell, begun: Collection[str]) -> dict[str, Any]:
    """Chooses the learning rate of a cell."""
    tried = cell.tried(begun)
    without = choose(cell.study, tried, Progress(METRIC).write)
    tuned = {} if without else cell.study.tuned[cell.variant]
    return {"numbers": {}, "tuned": tuned, "edge": edge_of(tried, tuned)}


def _measured(cell: Cell, failures: Sequence[Failure]) -> dict[str, Any]:
    """Returns what the finished runs of a cell say, and why others have no result."""
    finished = [trial for trial in cell.trials() if trial.is_finished]
    lacks = len(finished) < len(cell.study.plan.seeds)
    # `diverged` stays so; what failed is to be tried again.
    diverged = all(failure.code == DIVERGED for failure in failures)
    outcome = {"failed": "diverged" if diverged else "failed"} if lacks else {}
    if not finished:
        return outcome
    results = {trial.recipe.seed: trial.result() for trial in finished}
    first = next(iter(results.values()))
    keys = [
        key
        for key in first["metrics"]
        if key.startswith(STATED) and all(key in r["metrics"] for r in results.values())
    ]
    costs = ("parameters", "training_flops_per_token", "steps", "tokens", "peak_memory_bytes")
    return {
        **outcome,
        "numbers": {
            key: {str(seed): result["metrics"][key] for seed, result in results.items()}
            for key in keys
        },
        **{key: first.get(key) for key in costs},
        "changed_to_match": plain_changes(cell.study.variant(cell.variant).matched),
        "seconds": sum(result.get("seconds", 0) for result in results.values()),
        "curve": _curve([trial.directory for trial in finished]),
        "runs": [str(trial.directory) for trial in finished],
    }


def _curve(runs: Sequence[Path]) -> dict[str, list[float]]:
    """Returns the mean training loss of some runs at a few steps."""
    read = [read_scalars(run, (CURVE,)).get(CURVE) for run in runs]
    curve = mean_curve(CURVE, [each for each in read if each is not None], {})
    if curve is None:
        return {"steps": [], "loss": []}
    kept = np.unique(np.linspace(0, len(curve.steps) - 1, POINTS).round().astype(int))
    return {
        "steps": curve.steps[kept].tolist(),
        "loss": curve.mean[kept].astype(float).round(4).tolist(),
    }
