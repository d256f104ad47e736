"""The cells of the table: one task of one mechanism, as an ordinary study of that mechanism.

runs/rank/
    <protocol>-<task>/<mechanism>-<digest>/seed<k>/    its runs
    <protocol>-<task>.tuning/...                       those that choose its learning rate
    rows/<protocol>/<mechanism>-<digest>.json          the row, see row.py
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attnkit.ablation.comparison import is_lower_better
from attnkit.ablation.costs import CostModel
from attnkit.ablation.curves import mean_curve
from attnkit.ablation.launch import Failure, Launch
from attnkit.ablation.launchers.base import Launcher
from attnkit.ablation.match import matched
from attnkit.ablation.plan import flow, plain_changes, read_plan
from attnkit.ablation.plan_file import VERSION as PLAN_VERSION
from attnkit.ablation.ranking.code import code_of
from attnkit.ablation.ranking.protocol import BASE, Protocol, RankError
from attnkit.ablation.run_study import DIVERGED
from attnkit.ablation.study import Study
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.trial import Trial
from attnkit.ablation.tuning import METRIC, Candidate, candidates, choose, edge_of, loss_of
from attnkit.checks.at_start import refuse_broken_plugins
from attnkit.checks.subjects import subjects_of
from attnkit.errors import UserError
from attnkit.recipe import Recipe, RecipeError, load_recipe
from attnkit.recipe.errors import Mark, Problem
from attnkit.recipe.source import plain, read_value
from attnkit.recipe.variant import variant_of
from attnkit.registry import ATTENTION, MASKS, line_of_plugin, suggest
from attnkit.storage import run_directory
from attnkit.tensorboard.scalars import read_scalars

FOLDER = Path("runs") / "rank"
"""Folder of all runs and rows."""

OWN_KEYS = ("mask", "position", "layers")
"""Keys of a model that a row may set, beside the options of its mechanism."""

FIRST_RATES = 3
"""Learning rates that are tried at first, those in the middle of the grid."""

STATED = ("loss", "accuracy")
"""What the names of a row's metrics begin with."""

CURVE = "loss/train"
POINTS = 30
"""Points of a row's curves."""

_LONGEST = 80
_BEFORE_A_KEY = re.compile(r"\s+(?=[A-Za-z_][\w.]*=)")


@dataclass(frozen=True)
class Subject:
    """What gets a row: a mechanism, with keys of its model that differ from the protocol's.

    Attributes:
        mechanism: its name.
        plugins: the file or module that registers it; empty: it comes with the kit.
        keys: such as `mask=sliding_window`, in order.
    """

    mechanism: str
    plugins: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its row, and of its runs: `multi_head mask={name: sliding_window, window: 8}`."""
        return " ".join((self.mechanism, *self.keys))

    def changes(self, num_heads: int) -> dict[str, Any]:
        """Returns the keys that give it its place in a study: as many heads as the base, and
        positions unless it tells them apart by itself.
        """
        cls = ATTENTION.get(self.mechanism)
        has_heads = "num_heads" in ATTENTION.options(self.mechanism)
        attention = {"name": self.mechanism, **({"num_heads": num_heads} if has_heads else {})}
        changes: dict[str, Any] = {"model.attention": attention}
        if cls.knows_order or "queries_and_keys" not in cls.position_kinds:
            changes["model.position"] = "none"
        for word in self.keys:
            key, value = self._read(word)
            if key.startswith("attention."):
                attention[key.removeprefix("attention.")] = value
            else:
                changes[f"model.{key}"] = value
        return changes

    def _read(self, word: str) -> tuple[str, Any]:
        """Returns a key and its value, from `mask=sliding_window`.

        Raises:
            RankError: if a row cannot set this key, or the value cannot be read.
        """
        key, _, written = word.partition("=")
        if key == "attention.name":
            raise RankError(
                f"{self.name}: a row begins with its mechanism; write '{written}' instead"
            )
        if key == "attention.num_heads":
            raise RankError(f"{self.name}: every row has the heads of the base; remove {key}")
        options = sorted(set(ATTENTION.options(self.mechanism)) - {"num_heads"})
        own = [*OWN_KEYS, *(f"attention.{option}" for option in options)]
        if ".".join(key.split(".")[: 2 if key.startswith("attention.") else 1]) not in own:
            raise RankError(
                f"{self.name}: a row has no key `{key}`{_meant(key, own)} "
                f"(known: {', '.join(own)}; all others are the protocol's)"
            )
        problems: list[Problem] = []
        node = read_value(written, ("model", *key.split(".")), Mark(f"{self.name!r}"), problems)
        if problems:
            raise RankError(f"{self.name}: {problems[0].message}")
        return key, plain(node)


def _meant(key: str, own: Sequence[str]) -> str:
    """Returns what a key that no row has may stand for."""
    if f"attention.{key}" in own:
        return f"; did you mean `attention.{key}`?"
    if any(key in MASKS.options(name) for name in MASKS.names()):
        return f"; did you mean `mask={{name: NAME, {key}: ...}}`?"
    section = "attention." if key.startswith("attention.") else ""
    keys = (name.removeprefix(section) for name in own if name.startswith(section))
    return suggest(key.removeprefix(section), keys).replace("mean `", f"mean `{section}")


def subjects_named(words: Iterable[str]) -> list[Subject]:
    """Returns what words name, each once.

    Args:
        words: names, plugin files, modules; each may be followed by keys, as in `multi_head
            mask=causal`.

    Raises:
        RegistryError: if one is unknown.
        RankError: if one is not a mechanism, or has a key that is the protocol's.
    """
    found: dict[str, Subject] = {}
    for word in words:
        what, *keys = _BEFORE_A_KEY.split(word.strip())
        keys = tuple(sorted(key.removeprefix("model.") for key in keys))
        if "=" in what:
            raise RankError(
                f"{word}: name the mechanism and its keys in one word: 'multi_head {word}'"
            )
        for subject in subjects_of(what):
            if subject.part or str(subject) != subject.name:
                raise RankError(
                    f"{what}: {subject} is not a mechanism, so the table has no row for it"
                )
            home = ATTENTION.get(subject.name).__module__
            is_own = what.endswith(".py") or not home.startswith("attnkit.")
            plugin = (str(Path(what).resolve()) if what.endswith(".py") else what,)
            named = Subject(subject.name, plugin if is_own else (), keys)
            named.changes(1)
            found[named.name] = named
    return list(found.values())


class RowTrial(Trial):
    """A run of a row, whose key tells the task: runs of all tasks are trained together."""

    @property
    def key(self) -> str:
        """Name of the trial: `<protocol>-<task>/<mechanism>-<digest>/seed<k>`."""
        return f"{self.recipe.name}/{super().key}"


@dataclass
class Cell:
    """One task of one row.

    Attributes:
        task: of the protocol.
        subject: what the row is of.
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

    def tried(self, begun: Collection[str] = ()) -> list[Candidate]:
        """Returns the runs that choose its learning rate so far: three, and while the best of them
        is at an end, the next one.

        Args:
            begun: keys of runs that have no result if they are not finished.
        """
        grid = [
            Candidate(each.variant, each.changes, RowTrial(each.trial.recipe))
            for each in candidates(self.study)
            if each.variant == self.variant
        ]
        first = max(0, (len(grid) - FIRST_RATES + 1) // 2)
        last = min(first + FIRST_RATES, len(grid))
        while True:
            tried = grid[first:last]
            known = [each.trial.is_finished or each.trial.key in begun for each in tried]
            losses = [loss_of(each.trial) for each in tried]
            best = losses.index(min(losses))
            if all(known) and best == 0 and first > 0:
                first -= 1
            elif all(known) and best == len(tried) - 1 and last < len(grid):
                last += 1
            else:
                return tried

    def trials(self) -> list[Trial]:
        """Returns the runs that its numbers are from, with the learning rate as it is chosen."""
        return [RowTrial.of(self.recipe, seed) for seed in self.study.plan.seeds]

    def owns(self, key: str) -> bool:
        """True if a run of this key is one of its runs."""
        study = self.study.plan.recipe.name
        return key.partition("/")[0] in (study, f"{study}.tuning")

    def num_missing(self) -> int:
        """Number of runs that are still to be trained, as far as that is known."""
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
        """Returns the folder of a mechanism's runs: its name, and a digest of its code and keys.
        All else that its numbers depend on has the version of the protocol.
        """
        changes = {task: self.changes(task, subject) for task in self.protocol.parts}
        content = [self.protocol.name, changes, code_of(subject.mechanism, subject.plugins)]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        keys = [f"model.{key}" for key in subject.keys]
        return f"{variant_of(keys, subject.mechanism)[:_LONGEST]}-{digest[:8]}"

    def changes(self, task: str, subject: Subject) -> dict[str, Any]:
        """Returns the keys in which a mechanism's study of a task differs from the base's."""
        if subject.name == BASE:
            return {}
        return subject.changes(self.recipe(task).model["attention"].options["num_heads"])

    def cell(self, task: str, subject: Subject) -> Cell:
        """Returns one task of one mechanism.

        Raises:
            RankError: if the protocol cannot take the mechanism, or the code of a plugin fails.
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
            problem = error.problems[0]
            words = problem.message.removesuffix(f" (in the variant `{variant}`)")
            where = f"{problem.key}: " if problem.key else ""
            raise RankError(
                f"{subject.name} has no row: the task {task} of the protocol cannot take it: "
                f"{where}{words}"
            ) from None
        except UserError:
            raise
        except Exception as error:
            line = line_of_plugin(error)
            if line is None:
                raise
            raise RankError(
                f"{line}: {type(error).__name__}: {error}\n"
                f"(`attnkit check {shlex.quote(os.path.relpath(subject.plugins[0]))}` shows where)"
            ) from error
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


def write_plan(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the plan of a task's folder, for TensorBoard's page and `attnkit compare`: the rows
    whose runs are here, as one study. The base is in it in any case: what is compared has
    no other.

    Args:
        cell: of the task.
        rows: the rows of the table, the base first.
    """
    plan, task = cell.study.plan, cell.task
    base, *others = rows
    here = [base, *(row for row in others if (cell.study.directory / row["variant"]).is_dir())]
    if len(here) == 1 and not (cell.study.directory / base["variant"]).is_dir():
        return
    content = {
        **cell.study.describe(),
        "version": PLAN_VERSION,
        "base": base["variant"],
        "lower_is_better": is_lower_better(plan.options.metric),
        "variants": {row["variant"]: row["changes"] for row in here},
        "tuned": {row["variant"]: row["tasks"][task]["tuned"] for row in here},
        "changed_to_match": {
            row["variant"]: row["tasks"][task].get("changed_to_match", {}) for row in here
        },
    }
    run_directory.write_json(cell.study.directory / run_directory.PLAN, content)
