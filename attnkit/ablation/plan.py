"""Reads the section `ablation` of a recipe as a list of variants, with the keys that each changes
and the base that they are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attnkit.ablation.grids import Changes, are_too_many, grid, may_vary, split_alternatives
from attnkit.recipe import AblationOptions, Recipe, RecipeError, load_recipe
from attnkit.recipe.errors import KeyPath, Mark, Problem, dotted
from attnkit.recipe.merging import read_changes
from attnkit.recipe.source import Node, plain, read_value
from attnkit.recipe.variant import BASE, FOLDER_NAME, variant_of
from attnkit.registry import suggest
from attnkit.runs.resume import differences

PLANNED = Mark("the plan")
"""The mark of values that the plan sets."""


@dataclass(frozen=True)
class Variant:
    """One variant of a study.

    Attributes:
        name: folder of its runs.
        changes: the keys in which it differs from the recipe.
        matched: sizes that were changed so that it costs as much as the base.
        tuned: the candidates that were chosen for it.
        is_from_grid: True if its name is derived from its keys, not written in the recipe.
    """

    name: str
    changes: Changes
    matched: Changes = field(default_factory=dict)
    tuned: Changes = field(default_factory=dict)
    is_from_grid: bool = False

    @property
    def all_changes(self) -> Changes:
        """Changes, matched sizes and tuned keys together."""
        return {**self.changes, **self.matched, **self.tuned}


@dataclass(frozen=True)
class Plan:
    """A study before anything is trained.

    Attributes:
        recipe: the recipe with its section `ablation`.
        variants: in display order.
        base: name of the variant that the others are compared with.
        seeds: of each variant.
    """

    recipe: Recipe
    variants: tuple[Variant, ...]
    base: str
    seeds: tuple[int, ...]

    @property
    def options(self) -> AblationOptions:
        """The section `ablation`."""
        assert self.recipe.ablation is not None
        return self.recipe.ablation

    @property
    def varied(self) -> list[str]:
        """The keys in which variants differ."""
        paths = [path for variant in self.variants for path in variant.changes]
        return list(dict.fromkeys(map(dotted, paths)))

    def variant(self, name: str) -> Variant:
        """Returns the variant with this name."""
        return next(variant for variant in self.variants if variant.name == name)

    def renamed(self, names: Mapping[str, str]) -> Plan:
        """Returns the plan with other names for some variants, old -> new."""
        variants = tuple(replace(v, name=names.get(v.name, v.name)) for v in self.variants)
        return replace(self, variants=variants, base=names.get(self.base, self.base))

    def mark(self, key: str) -> Mark:
        """Returns the place of a key of the section; else that of the section, or of the recipe."""
        section = self.recipe.source.value["ablation"]
        return section.value[key].key_mark if key in section.value else section.key_mark

    def recipe_of(self, variant: Variant, more: Changes | None = None, name: str = "") -> Recipe:
        """Returns the recipe of a variant.

        Args:
            variant: the variant.
            more: further changes.
            name: folder of its runs; empty: that of the study.

        Raises:
            RecipeError: if it is not a valid recipe.
        """
        changes: dict[KeyPath, Node | Mark] = {("ablation",): PLANNED, **variant.all_changes}
        return self.recipe.changed(
            {**changes, **(more or {})}, name=name or None, variant=variant.name
        )


def load_study(path: str | Path, overrides: Sequence[str]) -> Recipe:
    """Reads a recipe with overrides. An override with several values, `key=a,b,c`, or a range,
    `key=log:1e-4..1e-2`, is added to `ablation.vary`.

    Raises:
        RecipeError: with every problem of the recipe.
    """
    single, several = split_alternatives(overrides)
    recipe = load_recipe(path, single)
    problems: list[Problem] = []
    varied: dict[KeyPath, Node | Mark] = {}
    for key, values in several.items():
        mark = Mark(f"override {key}={','.join(values)}")
        where = ("ablation", "vary", key)
        written = values[0] if len(values) == 1 else f"[{', '.join(values)}]"
        varied[where] = read_value(written, where, mark, problems)
    if problems:
        raise RecipeError(problems)
    return recipe.changed(varied, variant=BASE) if varied else recipe


def read_plan(recipe: Recipe) -> Plan:
    """Reads the variants of a recipe, and checks that each is a valid recipe.

    Raises:
        RecipeError: with every problem of every variant.
    """
    problems: list[Problem] = []
    if recipe.ablation is None:
        recipe = recipe.changed({("ablation",): value_node({})})
    assert recipe.ablation is not None
    section, options = recipe.source.value["ablation"], recipe.ablation
    variants = list(_variants(section, options, problems))
    problems += _clashes(variants, section)
    base = options.base or next((variant.name for variant in variants), BASE)
    seeds = range(options.seeds) if isinstance(options.seeds, int) else options.seeds
    if not _are_seeds(seeds):
        mark = section.value["seeds"].mark
        message = "expected a number of seeds, or a list of different whole numbers from 0 on"
        problems.append(Problem(mark, "ablation.seeds", message))
    plan = Plan(recipe, tuple(variants), base, tuple(seeds))
    if base not in [variant.name for variant in variants] and not problems:
        known = ", ".join(variant.name for variant in variants)
        message = f"there is no variant `{base}` (there are: {known})"
        problems.append(Problem(plan.mark("base"), "ablation.base", message))
    problems += _claim_problems(plan)
    if not problems:
        problems += _recipe_problems(plan)
    if problems:
        raise RecipeError(problems)
    return plan


def side_effects(plan: Plan) -> dict[str, list[str]]:
    """Returns variant -> `key: before -> now`, for keys that a variant changes without naming them.

    A variant with another mechanism uses that mechanism's defaults, not the recipe's options.
    """
    written = plan.recipe_of(Variant(BASE, {})).to_dict()
    found: dict[str, list[str]] = {}
    for variant in plan.variants:
        named = [dotted(path) for path in variant.all_changes]
        changes = differences(written, plan.recipe_of(variant).to_dict())
        found[variant.name] = [
            change
            for key, change in changes.items()
            if not any(f"{key}.".startswith(f"{name}.") for name in named)
            and not change.startswith(f"{key}: nothing ")
            and not change.endswith("-> nothing")
        ]
    return {name: changes for name, changes in found.items() if changes}


def _recipe_problems(plan: Plan) -> Iterator[Problem]:
    """Yields each problem of the variants' recipes once, even if many variants share it."""
    found: dict[Problem, list[str]] = {}
    for variant in plan.variants:
        try:
            plan.recipe_of(variant)
        except RecipeError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(variant.name)
    for problem, names in found.items():
        where = f"the variant `{names[0]}`" if len(names) == 1 else f"{len(names)} variants"
        yield replace(problem, message=f"{problem.message} (in {where})")


def _claim_problems(plan: Plan) -> Iterator[Problem]:
    """Yields the problems of the claims: unknown variants, invalid seeds, not one threshold."""
    known = [variant.name for variant in plan.variants]
    for name, claim in (plan.options.claims or {}).items():
        written = plan.recipe.source.value["ablation"].value["claims"].value[name]
        for key in ("subject", "base", "switched_off"):
            variant = getattr(claim, key)
            if variant is not None and variant not in known:
                message = f"there is no variant `{variant}`{suggest(variant, known)}"
                mark = written.value[key].mark
                yield Problem(mark, f"ablation.claims.{name}.{key}", message)
        if (claim.by is None) == (claim.times is None):
            message = "set either by, the smallest difference, or times, the smallest ratio"
            yield Problem(written.key_mark, f"ablation.claims.{name}", message)
        if isinstance(claim.seeds, list) and not (len(claim.seeds) > 1 and _are_seeds(claim.seeds)):
            message = "expected 2 seeds or more: a number, or a list of different whole numbers"
            mark = written.value["seeds"].mark
            yield Problem(mark, f"ablation.claims.{name}.seeds", message)
        if claim.subject == (claim.base or plan.base):
            message = f"the subject and its base are both `{claim.subject}`"
            yield Problem(written.key_mark, f"ablation.claims.{name}", message)


def value_node(value: Any) -> Node:
    """Returns the node of a value that the plan sets."""
    return Node(value, PLANNED, PLANNED)


def plain_changes(changes: Changes) -> dict[str, Any]:
    """Returns changes in plain types, with `~key: null` for removed keys."""
    return {
        dotted(path) if isinstance(value, Node) else f"~{dotted(path)}": (
            plain(value) if isinstance(value, Node) else None
        )
        for path, value in changes.items()
    }


def as_overrides(changes: Changes) -> list[str]:
    """Returns changes as overrides of a command line."""
    return [
        key if key.startswith("~") else f"{key}={flow(value)}"
        for key, value in plain_changes(changes).items()
    ]


def flow(value: Any) -> str:
    """Returns a value on one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _variants(
    section: Node, options: AblationOptions, problems: list[Problem]
) -> Iterator[Variant]:
    written = section.value.get("vary")
    combinations = grid(written, "ablation.vary", problems, options, with_recipe=True)
    mapping = section.value.get("variants")
    listed = list(_listed(mapping, problems)) if mapping and mapping.value else [Variant(BASE, {})]
    count = len(listed) * len(combinations)
    if are_too_many(count, "ablation", section.key_mark, problems):
        return
    for variant in listed:
        for changes in combinations:
            name = variant_of(as_overrides(changes), variant.name)
            both = {**variant.changes, **changes}
            yield Variant(name, both, is_from_grid=bool(changes))


def _listed(variants: Node, problems: list[Problem]) -> Iterator[Variant]:
    for name, written in variants.value.items():
        where = f"ablation.variants.{name}"
        if fault := FOLDER_NAME.fault(name):
            problems.append(Problem(written.key_mark, where, fault))
        elif written.value is not None and not isinstance(written.value, dict):
            message = "expected the keys in which it differs, such as {model.dim: 64}, or nothing"
            problems.append(Problem(written.mark, where, message))
        else:
            keys = replace(written, value=written.value or {})
            changes = read_changes(keys, problems)
            allowed = [
                path
                for path, value in changes.items()
                if may_vary(path, _mark(value), where, problems)
            ]
            yield Variant(name, {path: changes[path] for path in allowed})


def _mark(value: Node | Mark) -> Mark:
    return value if isinstance(value, Mark) else value.key_mark


def _clashes(variants: Sequence[Variant], section: Node) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for variant in variants:
        folder = variant.name.lower()  # some file systems ignore case
        if folder in seen:
            message = f"two variants are called `{variant.name}`: their runs would share a folder"
            if seen[folder] != variant.name:
                message += f" (the other is `{seen[folder]}`)"
            marks = [_mark(value) for value in variant.changes.values()]
            yield Problem(next(iter(marks), section.key_mark), "ablation", message)
        seen.setdefault(folder, variant.name)


def _are_seeds(seeds: Sequence[int]) -> bool:
    """True if all are valid seeds, and all are different."""
    return bool(seeds) and len(set(seeds)) == len(seeds) and all(0 <= s < 2**32 for s in seeds)
