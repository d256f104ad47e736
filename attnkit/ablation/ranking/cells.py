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
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnkit.ablation.comparison import is_lower_better
from attnkit.ablation.costs import CostModel
from attnkit.ablation.match import matched
from attnkit.ablation.plan import flow, read_plan
from attnkit.ablation.plan_file import VERSION as PLAN_VERSION
from attnkit.ablation.ranking.code import code_of
from attnkit.ablation.ranking.protocol import BASE, Protocol, RankError
from attnkit.ablation.ranking.subject import Subject
from attnkit.ablation.study import Study
from attnkit.ablation.trial import Trial
from attnkit.ablation.tuning import Candidate, candidates, loss_of
from attnkit.checks.at_start import refuse_broken_plugins
from attnkit.errors import UserError
from attnkit.recipe import Recipe, RecipeError, load_recipe
from attnkit.recipe.variant import variant_of
from attnkit.registry import line_of_plugin
from attnkit.storage import run_directory

FOLDER = Path("runs") / "rank"
"""Folder of all runs and rows."""

FIRST_RATES = 3
"""Learning rates that are tried at first, those in the middle of the grid."""

_LONGEST = 80


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
            file = os.path.relpath(line.rpartition(":")[0])
            raise RankError(
                f"{line}: {type(error).__name__}: {error}\n"
                f"(`attnkit check {shlex.quote(file)}` shows where)"
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
