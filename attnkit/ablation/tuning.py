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
            name = variant_of(as_overrides(changes), variant.name)
            changed = replace(variant, name=name, tuned=changes)
            folder = f"{study.plan.recipe.name}.tuning"
            recipe = study.within_budget(variant.name, changed, "first_half", folder)
            found.append(Candidate(variant.name, changes, Trial.of(recipe, seed)))
    return found


def choose(
    study: Study,
    trained: Sequence[Candidate],
    write: Callable[[str], None],
) -> list[str]:
    """Stores the best candidate of each variant in the study; returns the variants without one."""
    without: list[str] = []
    for name in dict.fromkeys(candidate.variant for candidate in trained):
        of_variant = [candidate for candidate in trained if candidate.variant == name]
        losses = [loss_of(candidate.trial) for candidate in of_variant]
        best = min(range(len(of_variant)), key=losses.__getitem__)
        if not math.isfinite(losses[best]):
            without.append(name)
            continue
        chosen = plain_changes(of_variant[best].changes)
        study.tuned[name] = chosen
        words = ", ".join(f"{key}={value}" for key, value in chosen.items())
        end = edge_of(of_variant, chosen)
        if end:
            study.edges[name] = end
        warning = f"; the {end} candidate: a better value may be beyond it" if end else ""
        write(f"{name}: {words} (loss {losses[best]:.4f} on the first half){warning}")
    return without


def loss_of(trial: Trial) -> float:
    """Returns the loss that a candidate is chosen by; infinity if it has none."""
    loss = trial.metric(METRIC) if trial.is_finished else math.inf
    return loss if math.isfinite(loss) else math.inf


def edge_of(
    of_variant: Sequence[Candidate], chosen: Mapping[str, Any]
) -> Literal["smallest", "largest"] | None:
    """Returns which end of several numbers the chosen one is; None: neither."""
    for key, value in chosen.items():
        values = {plain_changes(candidate.changes)[key] for candidate in of_variant}
        if (
            len(values) > 2
            and isinstance(value, int | float)
            and value in (min(values), max(values))
        ):
            return "smallest" if value == min(values) else "largest"
    return None
