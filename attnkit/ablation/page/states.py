"""The state of each run of a study, read from its files."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from attnkit.ablation.page.folders import StudyFolder
from attnkit.ablation.plan_file import PlanFile
from attnkit.ablation.tables import visible
from attnkit.ablation.trial_files import FOLDER, failure_of, last_lines, log_of, progress_in, tail
from attnkit.storage.run_directory import RECIPE, RESULT, is_in_use

LAST_LINES = 12
"""Lines of a failed run's output that are shown."""

STATES = ("finished", "running", "failed", "halved", "stopped", "queued")

_PAUSED = "paused after step "
"""In the output of a run that waits for the others at a rung of halving."""

_STARTING = 10.0
"""Age in seconds below which a lock file counts as held: its owner may be about to take it."""


@dataclass(frozen=True)
class RunState:
    """The state of a run of a study.

    Attributes:
        variant: its variant.
        seed: its seed.
        state: one of `STATES`. `halved`: halving has stopped its variant; `stopped`: it has begun,
            but no process trains it.
        directory: of the run.
        text: its progress, or why it has no result.
        lines: the last lines of its output, if it failed.
    """

    variant: str
    seed: int
    state: str
    directory: Path
    text: str = ""
    lines: tuple[str, ...] = ()


def state_of(
    folder: StudyFolder,
    plan: PlanFile | None,
    variant: str,
    seed: int,
    directory: Path,
    in_use: bool,
    with_text: bool,
) -> RunState:
    """Returns the state of a run of a study.

    Args:
        folder: of the study.
        plan: of the study, if it has one.
        variant: of the run.
        seed: of the run.
        directory: of the run.
        in_use: True if a process trains the study.
        with_text: also read the text and the lines.
    """
    if (directory / RESULT).is_file():
        return RunState(variant, seed, "finished", directory)
    log = log_of(folder.path, variant, seed)
    failure = failure_of(folder.path, variant, seed)
    halved = plan.stopped.get(variant) if plan else None
    state = "queued"
    if _trains(directory):
        state = "running"
    elif failure.is_file():
        state = "failed"
    elif halved:
        state = "halved"
    elif in_use and log.is_file():
        state = "queued" if _PAUSED in tail(log) else "running"
    elif (directory / RECIPE).is_file():
        state = "stopped"
    run = RunState(variant, seed, state, directory)
    if not with_text or state == "queued":
        return run
    if halved and state == "halved":
        return replace(run, text=f"at step {halved['step']:,}")
    if state == "failed":
        lines = tuple(visible(line) for line in last_lines(log, LAST_LINES))
        return replace(run, text=visible(tail(failure).strip()), lines=lines)
    return replace(run, text=visible(progress_in(log, folder.path.name, variant)))


def tuning_of(folder: StudyFolder, plan: PlanFile | None) -> dict[str, int] | None:
    """Returns how many of the tuning runs have ended; None if the study is not tuning now."""
    if plan is None or set(plan.variants) <= set(plan.tuned) or not is_in_use(folder.path):
        return None
    tuning = folder.path.with_name(f"{folder.path.name}.tuning")
    results = {(path.parts[-3], path.parts[-2]) for path in tuning.glob(f"*/seed*/{RESULT}")}
    failed = {tuple(path.stem.rsplit(".", 1)) for path in tuning.glob(f"{FOLDER}/*.failed")}
    total = plan.num_candidates * len(plan.variants)
    ended = len(results | failed)
    return {"ended": ended, "total": total} if ended < total else None


def _trains(directory: Path) -> bool:
    """True while a process trains a run."""
    try:
        age = time.time() - (directory / ".lock").stat().st_mtime
    except OSError:
        return False
    return age < _STARTING or is_in_use(directory)
