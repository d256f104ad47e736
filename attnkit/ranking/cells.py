"""The cells of the table: one task of one mechanism, as an ordinary study of that mechanism.

runs/rank/
    <protocol>-<task>/<mechanism>-<digest>/seed<k>/    its runs
    <protocol>-<task>.tuning/...                       those that choose its learning rate
    rows/<protocol>/<mechanism>-<digest>.json          the row, see row.py
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnkit.ablation.comparison import is_lower_better
from attnkit.ablation.costs import CostModel
from attnkit.ablation.launch import Failure, Launch
from attnkit.ablation.launchers.base import Launcher
from attnkit.ablation.match import matched
from attnkit.ablation.plan import flow, plain_changes, read_plan
from attnkit.ablation.plan_file import VERSION as PLAN_VERSION
from attnkit.ablation.run_study import DIVERGED
from attnkit.ablation.study import Study
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.trial import Trial
from attnkit.ablation.tuning import METRIC, Candidate, candidates, choose, edge_of
from attnkit.checks.at_start import refuse_broken_plugins
from attnkit.checks.subjects import subjects_of
from attnkit.ranking.code import code_of
from attnkit.ranking.protocol import BASE, Protocol, RankError
from attnkit.recipe import Recipe, RecipeError, load_recipe
from attnkit.registry import ATTENTION
from attnkit.storage import run_directory

FOLDER = Path("runs") / "rank"
"""Folder of all runs and rows."""


@dataclass(frozen=True)
class Subject:
    """A mechanism that gets a row.

    Attributes:
        mechanism: its name.
        plugins: the file or module that registers it; empty: it comes with the kit.
    """

    mechanism: str
    plugins: tuple[str, ...] = ()

    def changes(self, num_heads: int) -> dict[str, Any]:
        """Returns the keys that give it its place in a study: as many heads as the base, and
        positions unless it tells them apart by itself.
        """
        cls = ATTENTION.get(self.mechanism)
        has_heads = "num_heads" in ATTENTION.options(self.mechanism)
        heads = {"num_heads": num_heads} if has_heads else {}
        changes: dict[str, Any] = {"model.attention": {"name": self.mechanism, **heads}}
        if cls.knows_order or "queries_and_keys" not in cls.position_kinds:
            changes["model.position"] = "none"
        return changes


def subjects_named(words: Iterable[str]) -> list[Subject]:
    """Returns the mechanisms that words name, each once.

    Args:
        words: names, plugin files, modules.

    Raises:
        RegistryError: if one is unknown.
        RankError: if one is no mechanism.
    """
    found: dict[str, Subject] = {}
    for word in words:
        for subject in subjects_of(word):
            if subject.part or str(subject) != subject.name:
                raise RankError(
                    f"{word}: {subject} is no mechanism, so the table has no row for it"
                )
            home = ATTENTION.get(subject.name).__module__
            is_own = word.endswith(".py") or not home.startswith("attnkit.")
            plugin = (str(Path(word).resolve()) if word.endswith(".py") else word,)
            found[subject.name] = Subject(subject.name, plugin if is_own else ())
    return list(found.values())


@dataclass
class Cell:
    """One task of one row.

    Attributes:
        task: of the protocol.
        subject: the mechanism.
        study: its study; the base is in the plan to be matched, but not trained.
        variant: its folder.
    """

    task: str
    subject: Subject
    study: Study
    variant: str

    @property
    def recipe(self) -> Recipe:
        """Of its runs, before its learning rate is tuned."""
        return self.study.recipe(self.variant)

    def tried(self) -> list[Candidate]:
        """Returns the runs that choose its learning rate."""
        return [each for each in candidates(self.study) if each.variant == self.variant]

    def trials(self) -> list[Trial]:
        """Returns the runs that its numbers are from, with the learning rate as it is chosen."""
        return [Trial.of(self.recipe, seed) for seed in self.study.plan.seeds]

    def num_missing(self) -> int:
        """Number of runs that are still to be trained."""
        runs = [*(candidate.trial for candidate in self.tried()), *self.trials()]
        return sum(not run.is_finished for run in runs)


@dataclass
class Plans:
    """Makes the cells of a protocol; reads each of its recipes once.

    Args:
        protocol: the protocol.
    """

    protocol: Protocol
    _count: CostModel = field(default_factory=CostModel)
    _recipes: dict[str, Recipe] = field(default_factory=dict)

    def variant(self, subject: Subject) -> str:
        """Returns the folder of a mechanism's runs: its name, and a digest of all that its numbers
        depend on.
        """
        written = {task: self.recipe(task).to_dict() for task in self.protocol.parts}
        changes = [self.changes(task, subject) for task in self.protocol.parts]
        code = code_of(subject.mechanism, subject.plugins)
        content = [self.protocol.name, written, changes, code]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{subject.mechanism}-{digest[:8]}"

    def changes(self, task: str, subject: Subject) -> dict[str, Any]:
        """Returns the keys in which a mechanism's study of a task differs from the base's."""
        if subject.mechanism == BASE:
            return {}
        return subject.changes(self.recipe(task).model["attention"].options["num_heads"])

    def cell(self, task: str, subject: Subject) -> Cell:
        """Returns one task of one mechanism.

        Raises:
            RankError: if the protocol cannot take the mechanism.
            LawBrokenError: if it is a plugin that breaks a law.
        """
        variant, base = self.variant(subject), self.variant(Subject(BASE))
        variants = {base: {}, variant: self.changes(task, subject)}
        try:
            recipe = load_recipe(
                self.protocol.parts[task].recipe,
                [
                    *self._overrides(task),
                    f"plugins={flow(list(subject.plugins))}",
                    f"ablation.variants={json.dumps(variants)}",
                    "variant=base",
                ],
            )
            study = Study(matched(read_plan(recipe), self._count), self._count)
            refuse_broken_plugins(study.recipe(variant).model)
        except RecipeError as error:
            raise RankError(
                f"{subject.mechanism} has no row: the task {task} of the protocol cannot take it: "
                f"{error.problems[0].message}"
            ) from None
        return Cell(task, subject, study, variant)

    def recipe(self, task: str) -> Recipe:
        """Returns the study of a task, without its variants."""
        if task not in self._recipes:
            recipe = load_recipe(self.protocol.parts[task].recipe, self._overrides(task))
            self._recipes[task] = recipe
        return self._recipes[task]

    def _overrides(self, task: str) -> list[str]:
        part = self.protocol.parts[task]
        return [
            *part.changes.get(self.protocol.tier, ()),
            f"runs_dir={FOLDER}",
            f"name={self.protocol.name}-{task}",
        ]


def train(cell: Cell, launcher: Launcher) -> tuple[dict[str, Any], list[Failure]]:
    """Trains the missing runs of a cell.

    Returns:
        What its row says about the task, in plain types, and the runs without a result.

    Raises:
        StudyStopped: after SIGINT or SIGTERM.
        RunDirectoryError: if a run's folder contains something else.
    """
    study, name = cell.study, f"{cell.subject.mechanism} {cell.task} "
    tried = cell.tried()
    # The laws were asked when the cell was made.
    lost = Launch(launcher, Progress(METRIC, f"{name}tuning "), check=False).run(
        [candidate.trial for candidate in tried]
    )
    failures = [failure for failure in lost if failure.code != DIVERGED]
    metric = study.plan.options.metric
    outcome: dict[str, Any] = {"numbers": {}, "tuned": {}, "edge": None}
    if choose(study, tried, Progress(METRIC).write):
        failures.append(Failure(cell.variant, DIVERGED, "has no learning rate with a loss"))
        return {**outcome, "failed": _why(failures)}, failures
    outcome["tuned"] = study.tuned[cell.variant]
    outcome["edge"] = edge_of(tried, study.tuned[cell.variant])
    trials = cell.trials()
    failures += Launch(launcher, Progress(metric, name), check=False).run(trials)
    finished = [trial for trial in trials if trial.is_finished]
    results = {trial.recipe.seed: trial.result() for trial in finished}
    if len(finished) < len(trials):
        outcome["failed"] = _why(failures)
    if not results:
        return outcome, failures
    first = next(iter(results.values()))
    keys = [key for key in first["metrics"] if all(key in r["metrics"] for r in results.values())]
    costs = ("parameters", "training_flops_per_token", "steps", "tokens", "peak_memory_bytes")
    matched_to = plain_changes(study.variant(cell.variant).matched)
    outcome |= {
        "numbers": {
            key: {str(seed): result["metrics"][key] for seed, result in results.items()}
            for key in keys
        },
        **{key: first.get(key) for key in costs},
        "changed_to_match": matched_to,
        "seconds": sum(result.get("seconds", 0) for result in results.values()),
        "runs": [str(trial.directory) for trial in finished],
    }
    return outcome, failures


def _why(failures: Sequence[Failure]) -> str:
    """Returns `diverged` if that is all that happened, else `failed`: to be tried again."""
    return "diverged" if all(failure.code == DIVERGED for failure in failures) else "failed"


def write_plan(cell: Cell, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the plan of a task's folder, for TensorBoard's page and `attnkit compare`: all rows as
    one study.

    Args:
        cell: of the task.
        rows: the rows of the table, with the base.
    """
    plan, task = cell.study.plan, cell.task
    content = {
        **cell.study.describe(),
        "version": PLAN_VERSION,
        "base": plan.base,
        "lower_is_better": is_lower_better(plan.options.metric),
        "variants": {row["variant"]: row["changes"] for row in rows},
        "tuned": {row["variant"]: row["tasks"][task]["tuned"] for row in rows},
        "changed_to_match": {
            row["variant"]: row["tasks"][task].get("changed_to_match", {}) for row in rows
        },
    }
    run_directory.write_json(cell.study.directory / run_directory.PLAN, content)
