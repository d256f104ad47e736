"""Tunes learning rates, or other keys, with the same list of candidates for every variant.

Every candidate of every variant is trained once, within the study's budget, with a seed that the
study does not use, and validated on the first half of the validation split. These runs are in
`runs/<study>.tuning/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from attnkit.ablation.grids import Changes, grid
from attnkit.ablation.plan import as_overrides, plain_changes
from attnkit.ablation.study import Study
from attnkit.ablation.trial import Trial
from attnkit.recipe import RecipeError
from attnkit.recipe.errors import Problem
from attnkit.recipe.variant import variant_of

METRIC = "loss"
"""The metric that selects a candidate: the validation loss."""


@dataclass(frozen=True)
class Candidate:
    """One setting of one variant.

    Attributes:
        variant: name of the variant.
        changes: the setting.
        trial: its run.
    """

    variant: str
    changes: Changes
    trial: Trial


def candidates(study: Study) -> list[Candidate]:
    """Returns the candidates of all variants that are not tuned yet.

    Raises:
        RecipeError: if the list of candidates is invalid, or one is not a valid recipe.
    """
    problems: list[Problem] = []
    written = study.plan.recipe.source.value["ablation"].value.get("tune")
    settings = grid(written, "ablation.tune", problems, study.plan.options)
    if problems:
        raise RecipeError(problems)
    names = [variant_of(as_overrides(changes)) for changes in settings]
    if len(set(names)) < len(names):
        message = "a candidate is listed twice"
        raise RecipeError([Problem(study.plan.mark("tune"), "ablation.tune", message)])
    seed = max(study.plan.seeds) + 1
    found = []
    for variant in study.plan.variants:
        if variant.name in study.tuned:
            continue
        for changes in settings if any(settings) else ():
            named = variant_of(as_overrides(changes), variant.name)
            tried = replace(variant, name=named, tuned=changes)
            apart = f"{study.plan.recipe.name}.tuning"
            recipe = study.within_budget(variant.name, tried, "first_half", apart)
            found.append(Candidate(variant.name, changes, Trial.of(recipe, seed)))
    return found


def choose(
    study: Study,
    tried: Sequence[Candidate],
    write: Callable[[str], None],
) -> list[str]:
    """Stores the best candidate of each variant in the study; returns the variants without one."""
    without: list[str] = []
    for name in dict.fromkeys(candidate.variant for candidate in tried):
        own = [candidate for candidate in tried if candidate.variant == name]
        losses = [loss_of(candidate.trial) for candidate in own]
        best = min(range(len(own)), key=losses.__getitem__)
        if not math.isfinite(losses[best]):
            without.append(name)
            continue
        chosen = plain_changes(own[best].changes)
        study.tuned[name] = chosen
        words = ", ".join(f"{key}={value}" for key, value in chosen.items())
        end = edge_of(own, chosen)
        if end:
            study.edges[name] = end
        warning = f"; the {end} candidate: a better value may be beyond it" if end else ""
        write(f"{name}: {words} (loss {losses[best]:.4f} on the first half){warning}")
    return without


def loss_of(trial: Trial) -> float:
    """Returns what a candidate is chosen by; infinity if it has no loss."""
    loss = trial.metric(METRIC) if trial.is_finished else math.inf
    return loss if math.isfinite(loss) else math.inf


def edge_of(
    own: Sequence[Candidate], chosen: Mapping[str, Any]
) -> Literal["smallest", "largest"] | None:
    """Says whether the chosen number is the smallest or the largest of several; None: neither."""
    for key, value in chosen.items():
        tried = {plain_changes(candidate.changes)[key] for candidate in own}
        if len(tried) > 2 and isinstance(value, int | float) and value in (min(tried), max(tried)):
            return "smallest" if value == min(tried) else "largest"
    return None
