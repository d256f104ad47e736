"""The state of a study on disk: its plan, the tuned keys, and the recipe of each variant.

`ablation.json` is written atomically before the first trial, after tuning, and at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attnkit.ablation.budget import budget_changes
from attnkit.ablation.comparison import is_lower_better
from attnkit.ablation.costs import CostModel
from attnkit.ablation.grids import Changes, drawn_from
from attnkit.ablation.plan import Plan, Variant, plain_changes, value_node
from attnkit.ablation.plan_file import VERSION
from attnkit.ablation.trial import Trial, recipe_changes
from attnkit.recipe import Recipe, RecipeError
from attnkit.recipe.errors import Problem, key_path
from attnkit.storage import run_directory
from attnkit.storage.files import parse_json
from attnkit.storage.run_directory import RunDirectoryError

_MAY_GROW = ("variants", "seeds", "varied")
_FREE = (
    "drawn",
    "halving",
    "stopped",
    "tuned",
    "edges",
    "changed_to_match",
    "step_seconds",
    "metric",
    "lower_is_better",
)
"""Keys that follow from the plan or only affect the comparison."""


@dataclass
class Study:
    """A plan with its state.

    Attributes:
        plan: the plan, with matched sizes.
        count: computes the costs of a variant.
        tuned: variant -> the candidates that were chosen for it.
        edges: variant -> `smallest` or `largest`, if its chosen candidate is at an end of the grid.
        stopped: variant -> `rung` and `step` at which halving stopped it.
        step_seconds: variant -> time of an optimizer step; only for a budget of seconds.
    """

    plan: Plan
    count: CostModel
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, dict[str, int]] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The folder of its runs."""
        return self.plan.recipe.runs_dir / self.plan.recipe.name

    def variant(self, name: str) -> Variant:
        """Returns a variant, with the candidates that were chosen for it."""
        chosen = self.tuned.get(name, {})
        tuned = {key_path(key): value_node(value) for key, value in chosen.items()}
        return replace(self.plan.variant(name), tuned=tuned)

    def recipe(self, name: str) -> Recipe:
        """Returns the recipe of a variant, with the budget and the part of the validation split."""
        return self.within_budget(name, self.variant(name), self.validation_part)

    def within_budget(self, name: str, changed: Variant, part: str, study: str = "") -> Recipe:
        """Returns the recipe of a variant, or of a candidate for it, with the study's budget.

        Args:
            name: of the variant, whose speed is used for a budget of seconds.
            changed: the variant with all its changes.
            part: the part of the validation split that it validates on.
            study: folder of its runs; empty: that of the study.

        Raises:
            RecipeError: if no whole number of steps fits the budget.
        """
        more: Changes = {} if part == "all" else {("validation", "part"): value_node(part)}
        recipe = self.plan.recipe_of(changed, more, study)
        seconds = self.step_seconds.get(name)
        spent = budget_changes(self.plan, name, self.count(recipe), seconds)
        return self.plan.recipe_of(changed, {**more, **spent}, study) if spent else recipe

    @property
    def validation_part(self) -> str:
        """The part of the validation split that the study's metrics are from."""
        return "second_half" if self.plan.options.tune else self.plan.recipe.validation.part

    def trials(self) -> list[Trial]:
        """Returns all trials, ordered by seed, so that every variant has a metric early."""
        recipes = [self.recipe(variant.name) for variant in self.plan.variants]
        return [Trial.of(recipe, seed) for seed in self.plan.seeds for recipe in recipes]

    def load_plan(self) -> None:
        """Loads the stored plan, if there is one, and checks that it belongs to this study.

        Raises:
            RunDirectoryError: if it belongs to another study, or is damaged.
        """
        path = self.directory / run_directory.PLAN
        if not path.is_file():
            return
        try:
            before = parse_json(path.read_bytes())
            self.plan = self.plan.renamed(_stored_names(self.plan, before["variants"]))
            changes = plan_changes(before, self.describe())
            self.tuned, self.step_seconds = before["tuned"], before["step_seconds"]
            self.edges = before.get("edges", {})
            self.stopped = before.get("stopped", {}) if self.plan.options.halving else {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{path} is damaged; remove it, and the study continues with the existing runs"
            ) from error
        if changes:
            raise RunDirectoryError(
                f"{self.directory} contains another study: {'; '.join(changes)}. Give this one "
                "another name (name=NAME), or remove that folder"
            )

    def write(self) -> None:
        """Writes `ablation.json`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        run_directory.write_json(self.directory / run_directory.PLAN, self.describe())

    def describe(self) -> dict[str, Any]:
        """Returns the contents of `ablation.json`."""
        plan, options = self.plan, self.plan.options
        recipe = plan.recipe.to_dict()
        keys = recipe["ablation"]
        budget = {unit: x for unit, x in (keys["budget"] or {}).items() if x is not None}
        return {
            "version": VERSION,
            "name": plan.recipe.name,
            "base": plan.base,
            "metric": options.metric,
            "lower_is_better": is_lower_better(options.metric),
            "varied": plan.varied,
            "variants": {each.name: plain_changes(each.changes) for each in plan.variants},
            "drawn": drawn_from(keys),
            "seeds": list(plan.seeds),
            "match": None if options.match == "none" else options.match,
            "free": keys["free"],
            "budget": budget or None,
            "tune": keys["tune"],
            "validation_part": self.validation_part,
            "halving": keys["halving"],
            "stopped": self.stopped,
            "tuned": self.tuned,
            "edges": self.edges,
            "changed_to_match": {
                each.name: plain_changes(each.matched) for each in plan.variants if each.matched
            },
            "step_seconds": self.step_seconds,
            "recipe": {key: value for key, value in recipe.items() if key != "ablation"},
        }


def check_parts(plan: Plan) -> None:
    """Checks that a study that tunes may set the part of the validation split.

    Raises:
        RecipeError: if the recipe sets it.
    """
    if plan.options.tune and plan.recipe.validation.part != "all":
        message = (
            "candidates are chosen on the first half of the validation split, and the study's "
            "numbers are those of the second; remove validation.part"
        )
        raise RecipeError([Problem(plan.mark("tune"), "ablation.tune", message)])


def _stored_names(plan: Plan, stored: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns current name -> stored name, for variants of a grid: an earlier version may have
    derived other names from the same keys.
    """
    names: dict[str, str] = {}
    for variant in plan.variants:
        keys = plain_changes(variant.changes)
        same = [name for name, changes in stored.items() if changes == keys]
        if variant.is_from_grid and variant.name not in stored and len(same) == 1:
            names[variant.name] = same[0]
    return names


def plan_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describes the differences between two plans. Variants and seeds may be added."""
    changes = []
    for key in now:
        if key in _FREE or before[key] == now[key]:
            continue
        old, new = before[key], now[key]
        if key == "variants":
            changes += [
                f"variant {name}: {keys} -> {new.get(name, 'nothing')}"
                for name, keys in old.items()
                if new.get(name) != keys
            ]
        elif key == "recipe":
            changes += recipe_changes(old, new)
        elif key not in _MAY_GROW or not set(old) <= set(new):
            changes.append(f"{key}: {old} -> {new}")
    return changes
