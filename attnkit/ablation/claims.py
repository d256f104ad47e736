"""Tests the claims of a study: trains the variants that they need, and decides each.

A claim (`ClaimOptions`) compares a number of two variants. It has one of three results at the size
of its study: holds, does not hold, not decided. The same test is made for the variant in which the
subject's idea is switched off. If the claim is not refuted there, the test says nothing about the
idea, and the claim is not decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from attnkit.ablation.estimates import Estimate, paired_difference
from attnkit.ablation.grouped_runs import GroupedRuns, group_runs
from attnkit.ablation.launch import Failure
from attnkit.ablation.plan import Plan, read_plan
from attnkit.ablation.run_study import run_study
from attnkit.ablation.stored_run import StoredRun
from attnkit.errors import UserError
from attnkit.recipe import ClaimOptions, Recipe
from attnkit.registry import suggest

Word = Literal["holds", "does not hold", "not decided"]


class ClaimError(UserError):
    """A claim cannot be tested: it does not exist, or its runs lack a number."""


@dataclass(frozen=True)
class Judgement:
    """A variant's number against the base's.

    Attributes:
        word: the result.
        estimate: the difference to the base, or the ratio, in the claimed direction: positive, or
            more than 1, if the claim is right; None: there is no common seed.
    """

    word: Word
    estimate: Estimate | None


@dataclass(frozen=True)
class ClaimReport:
    """A claim and its evidence.

    Attributes:
        name: of the claim.
        claim: what is claimed.
        base: the variant that the subject is compared with.
        subject: the judgement of the subject.
        switched_off: the judgement of the variant without the idea.
        numbers: variant -> number -> seed -> value.
        runs: variant -> its runs, by seed.
    """

    name: str
    claim: ClaimOptions
    base: str
    subject: Judgement
    switched_off: Judgement
    numbers: Mapping[str, Mapping[str, Mapping[int, float]]]
    runs: Mapping[str, Mapping[int, StoredRun]]

    @property
    def word(self) -> Word:
        """The result; undecided if the claim is not refuted with the idea switched off."""
        tests_the_idea = self.switched_off.word == "does not hold"
        return self.subject.word if tests_the_idea else "not decided"


def judge(claim: ClaimOptions, values: Mapping[int, float], base: Mapping[int, float]) -> Judgement:
    """Decides whether a variant's number differs from the base's as claimed.

    Args:
        claim: direction and threshold.
        values: seed -> the variant's number.
        base: seed -> the base's number.

    Raises:
        ClaimError: if the claim is a ratio and its divisor is 0.
    """
    pairs = [(values[seed], base[seed]) for seed in values if seed in base]
    if not pairs:
        return Judgement("not decided", None)
    if claim.direction == "lower":
        pairs = [(of_base, value) for value, of_base in pairs]
    if claim.times is None:
        found, threshold = [more - less for more, less in pairs], claim.by
    elif all(less for _, less in pairs):
        found, threshold = [more / less for more, less in pairs], claim.times
    else:
        raise ClaimError(f"{claim.number} is 0, so it has no ratio; claim a difference (by)")
    assert threshold is not None
    estimate = paired_difference(found)
    word: Word = "not decided"
    if estimate.low is not None and estimate.low >= threshold:
        word = "holds"
    elif estimate.high is not None and estimate.high < threshold:
        word = "does not hold"
    return Judgement(word, estimate)


def seeds_needed(recipe: Recipe, names: Collection[str] | None = None) -> dict[str, set[int]]:
    """Returns the variants that claims need, in the order of the study, each with its seeds.

    Args:
        recipe: a study.
        names: of the claims; None: all of them.
    """
    plan = read_plan(recipe)
    needed: dict[str, set[int]] = {variant.name: set() for variant in plan.variants}
    for claim in claims_of(recipe, names).values():
        for variant in (claim.subject, claim.base or plan.base, claim.switched_off):
            needed[variant].update(seeds_of(claim, plan))
    return {variant: seeds for variant, seeds in needed.items() if seeds}


def seeds_of(claim: ClaimOptions, plan: Plan) -> Collection[int]:
    """Returns the seeds of a claim."""
    if claim.seeds is None:
        return plan.seeds
    return range(claim.seeds) if isinstance(claim.seeds, int) else claim.seeds


def with_all_seeds(recipe: Recipe) -> Recipe:
    """Returns a study with the seeds of all its claims."""
    plan = read_plan(recipe)
    claims = claims_of(recipe).values()
    more = {seed for claim in claims for seed in seeds_of(claim, plan)} - set(plan.seeds)
    if not more:
        return recipe
    seeds = ", ".join(map(str, [*plan.seeds, *sorted(more)]))
    return recipe.with_overrides(f"ablation.seeds=[{seeds}]")


def claims_of(recipe: Recipe, names: Collection[str] | None = None) -> dict[str, ClaimOptions]:
    """Returns the claims of a study by name.

    Raises:
        ClaimError: if it has no claims, or none with one of the names.
    """
    known = (recipe.ablation.claims if recipe.ablation else None) or {}
    if not known:
        raise ClaimError(f"{recipe.path or recipe.name} has no section ablation.claims")
    for name in names or ():
        if name not in known:
            raise ClaimError(f"{recipe.path or recipe.name} has no claim {name}")
    return {name: claim for name, claim in known.items() if names is None or name in names}


def quick_claims(recipe: Recipe, names: Collection[str] | None = None) -> list[str]:
    """Returns the claims of a study that have a quick test.

    Args:
        recipe: a study.
        names: of claims that must have a quick test; None: consider all claims.

    Raises:
        ClaimError: if one of the names has none.
    """
    claims = claims_of(recipe, names)
    quick = [name for name, claim in claims.items() if claim.quick is not None]
    for name in claims:
        if names is not None and name not in quick:
            raise ClaimError(
                f"claim {name} has no quick test (no key `quick`); test it without --quick"
            )
    return quick


def run_claims(
    recipe: Recipe, names: Collection[str] | None = None, *, check: bool = True
) -> tuple[list[ClaimReport], list[Failure]]:
    """Trains the missing runs of claims, and decides them.

    Args:
        recipe: a study with claims.
        names: of the claims; None: all of them.
        check: refuse plugins that break a law.

    Returns:
        The claims with their evidence, and the runs that failed.

    Raises:
        ClaimError: if there is no such claim, or the runs lack one of its numbers.
        RecipeError: if the plan is invalid.
        RunDirectoryError: if the folder belongs to another study, or no run has finished.
        StudyStopped: after SIGINT or SIGTERM.
    """
    plan = read_plan(recipe)
    directory, failures = run_study(
        with_all_seeds(recipe), check=check, only=seeds_needed(recipe, names)
    )
    grouped = group_runs([directory])
    claims = claims_of(recipe, names).items()
    return [_report(name, claim, plan, grouped) for name, claim in claims], failures


def _report(name: str, claim: ClaimOptions, plan: Plan, grouped: GroupedRuns) -> ClaimReport:
    base = claim.base or plan.base
    variants = dict.fromkeys((claim.subject, base, claim.switched_off))
    seeds = seeds_of(claim, plan)  # another claim may have trained more
    runs = {
        variant: {seed: run for seed, run in grouped.runs.get(variant, {}).items() if seed in seeds}
        for variant in variants
    }
    numbers = {
        variant: {
            number: {seed: _number(run, number, name) for seed, run in by_seed.items()}
            for number in (claim.number, *claim.also)
        }
        for variant, by_seed in runs.items()
    }
    values = {variant: of_variant[claim.number] for variant, of_variant in numbers.items()}
    return ClaimReport(
        name=name,
        claim=claim,
        base=base,
        subject=judge(claim, values[claim.subject], values[base]),
        switched_off=judge(claim, values[claim.switched_off], values[base]),
        numbers=numbers,
        runs=runs,
    )


def _number(run: StoredRun, number: str, name: str) -> float:
    from attnkit.ablation.map_numbers import MAP_NUMBERS, map_number

    if number in MAP_NUMBERS:
        return map_number(run.directory, number)
    costs = {key: value for key, value in run.record.items() if isinstance(value, int | float)}
    known = {**costs, **run.metrics}
    if number not in known:
        words = suggest(number, [*known, *MAP_NUMBERS])
        names = ", ".join([*known, *MAP_NUMBERS])
        raise ClaimError(f"claim {name}: no run has the number {number}{words} (known: {names})")
    return float(known[number])
