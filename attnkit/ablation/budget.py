"""Converts a budget to optimizer steps, so that every variant decays its learning rate and stops at
the same cost.
"""

from __future__ import annotations

import dataclasses

from attnkit.ablation.costs import Costs
from attnkit.ablation.grids import Changes
from attnkit.ablation.plan import Plan, value_node
from attnkit.recipe import RecipeError
from attnkit.recipe.errors import Problem

TOLERANCE = 0.01
"""Largest relative error of a budget in whole steps."""

MARGIN = 0.05
"""Share of a budget of seconds that is reserved for logging and the loop around the steps."""


def budget_of(plan: Plan) -> tuple[str, float] | None:
    """Returns the unit and the amount; None if each recipe's `trainer.max_steps` applies.

    Raises:
        RecipeError: if the budget does not have exactly one unit.
    """
    budget = plan.options.budget
    if budget is None:
        return None
    given = {unit: x for unit, x in dataclasses.asdict(budget).items() if x is not None}
    if len(given) != 1:
        message = "expected one of steps, tokens, flops and seconds, such as {tokens: 1e6}"
        raise RecipeError([Problem(plan.mark("budget"), "ablation.budget", message)])
    return next(iter(given.items()))


def budget_changes(
    plan: Plan, variant: str, costs: Costs, step_seconds: float | None = None
) -> Changes:
    """Returns the keys that stop a variant when the budget is spent.

    Steps are whole, so a budget is met within half a step. A budget of seconds uses the measured
    time per step and reserves `MARGIN`; slower runs are stopped by the clock.

    Args:
        plan: the plan with the budget.
        variant: its name, for messages.
        costs: of the variant.
        step_seconds: of one optimizer step; needed for a budget of seconds.

    Raises:
        RecipeError: if the budget is less than half a step, or whole steps miss it by more than
            `TOLERANCE`.
    """
    budget = budget_of(plan)
    if budget is None:
        return {}
    unit, amount = budget
    cost = {
        "steps": 1.0,
        "tokens": costs.tokens_per_step,
        "flops": costs.flops * costs.tokens_per_step,
        "seconds": step_seconds,
    }[unit]
    assert cost is not None, "a budget of seconds needs a measured speed"
    steps = round(amount / cost * (1 - MARGIN if unit == "seconds" else 1))
    if unit in ("tokens", "flops") and abs(steps * cost - amount) > TOLERANCE * amount:
        message = (
            f"{amount:,.4g} {unit} is not a whole number of steps of {cost:,.4g} for the variant "
            f"`{variant}`: {steps:,} steps miss it by {abs(steps * cost / amount - 1):.1%}; "
            "raise the budget, or make trainer.batch_size smaller"
        )
        raise RecipeError([Problem(plan.mark("budget"), "ablation.budget", message)])
    changes = {("trainer", "max_steps"): value_node(max(steps, 1))}
    if unit == "seconds":
        changes["trainer", "max_time"] = value_node(float(amount))
    return changes
