"""Makes variants cost as much as the base, by solving for a free size in whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attnkit.ablation.costs import CostModel
from attnkit.ablation.plan import Plan, Variant, value_node
from attnkit.recipe import Recipe, RecipeError
from attnkit.recipe.errors import Problem, key_path

if TYPE_CHECKING:
    from attnkit.models.layers import LayerEntry

TOLERANCE = 0.01
"""Share of the base's cost by which a variant may differ."""

_LARGEST = 1 << 20
_REACH = 64
"""Number of sizes in a row that may be invalid, such as those that the heads do not divide."""


def matched(plan: Plan, count: CostModel) -> Plan:
    """Returns the plan with sizes changed so that each variant costs as much as the base.

    A variant that already does is not changed.

    Raises:
        RecipeError: if no size brings a variant within `TOLERANCE`.
    """
    if plan.options.match == "none":
        return plan
    target = _cost(plan, count, plan.recipe_of(plan.variant(plan.base)))
    variants = tuple(
        variant if variant.name == plan.base else _solved(plan, count, variant, target)
        for variant in plan.variants
    )
    return replace(plan, variants=variants)


def _cost(plan: Plan, count: CostModel, recipe: Recipe) -> float:
    return getattr(count(recipe), plan.options.match)


def _solved(plan: Plan, count: CostModel, variant: Variant, target: float) -> Variant:
    recipe = plan.recipe_of(variant)
    if _is_close(_cost(plan, count, recipe), target):
        return variant
    keys = free_keys(plan, recipe)
    refusals: list[RecipeError] = []
    seen: list[float] = []

    def sized(size: int) -> Variant:
        return replace(variant, matched={key_path(key): value_node(size) for key in keys})

    def cost(size: int) -> float | None:
        try:
            counted = _cost(plan, count, plan.recipe_of(sized(size)))
        except RecipeError as error:
            refusals.append(error)
            return None
        seen.append(counted)
        return counted

    found = nearest_size(cost, target)
    if found is not None and _is_close(found[1], target):
        return sized(found[0])
    free = " and ".join(keys)
    if found is None:
        reason = refusals[0].problems[0].message
        problem = f"no {free} is valid for the variant `{variant.name}`: {reason}"
    elif len(seen) > 1 and len(set(seen)) == 1:
        problem = f"{free} does not change the {plan.options.match} of the variant `{variant.name}`"
    else:
        problem = _nearest(plan, variant.name, free, target, found)
    message = f"{problem}; set ablation.free to another key, or ablation.match to `none`"
    raise RecipeError([Problem(plan.mark("match"), "ablation.match", message)])


def _is_close(cost: float, target: float) -> bool:
    return abs(cost - target) <= TOLERANCE * target


def free_keys(plan: Plan, recipe: Recipe) -> list[str]:
    """Returns the keys that receive the size."""
    free = plan.options.free
    if free is not None:
        return [free] if isinstance(free, str) else free
    if plan.options.match == "cache_bytes":
        # The MLP's width does not change the cache, and the model's width only in steps of the
        # number of heads.
        model = recipe.model
        if "decoder" not in model:
            return _of_layers("model", model["layers"], "attention", "head_dim")
        entries = model["decoder"].layers
        return [
            *_of_layers("model.decoder", entries, "attention", "head_dim"),
            *_of_layers("model.decoder", entries, "cross", "head_dim", "model.cross.attention"),
        ]
    return ["model.dim" if recipe.model["mlp"].name == "none" else "model.mlp_dim"]


def _of_layers(
    section: str,
    entries: Sequence[LayerEntry] | None,
    key: str,
    option: str,
    otherwise: str | None = None,
) -> list[str]:
    """Returns the key of an option in each mechanism that a section or its pattern names."""
    named = [i for i, entry in enumerate(entries or ()) if getattr(entry, key) is not None]
    keys = [f"{section}.layers[{i}].{key}.{option}" for i in named]
    if not entries or len(named) < len(entries):
        keys.insert(0, f"{otherwise or f'{section}.{key}'}.{option}")
    return keys


def nearest_size(cost: Callable[[int], float | None], target: float) -> tuple[int, float] | None:
    """Finds the size whose cost is nearest to a target.

    Args:
        cost: returns the cost of a size from 1 on, non-decreasing; None for an invalid size.
        target: the cost to reach.

    Returns:
        The size and its cost; None if no size is valid.
    """
    known: dict[int, float | None] = {}

    def at(size: int) -> float | None:
        if size not in known:
            known[size] = cost(size)
        return known[size]

    def valid(size: int, below: int) -> int | None:
        """Returns the first valid size from `size` on, below `below`."""
        sizes = range(size, min(below, size + _REACH))
        return next((each for each in sizes if at(each) is not None), None)

    low = valid(1, _LARGEST)
    if low is None:
        return None
    high = low
    while (at(high) or 0) < target and high < _LARGEST:
        low = high
        if (larger := valid(2 * high, 2 * _LARGEST)) is None:
            break
        if at(larger) == at(low) and larger >= 64:  # the size does not change the cost
            break
        high = larger
    while low < high:  # cost(low) < target <= cost(high)
        middle = valid(low + (high - low) // 2, high)
        if middle is None or middle == low:
            middle = valid(low + 1, high)
        if middle is None:
            break
        if (at(middle) or 0) < target:
            low = middle
        elif middle < high:
            high = middle
    counted = {size: found for size, found in known.items() if found is not None}
    best = min(counted, key=lambda size: (abs(counted[size] - target), size))
    return best, counted[best]


def _nearest(plan: Plan, variant: str, free: str, target: float, found: tuple[int, float]) -> str:
    words = {"parameters": "parameters", "flops": "FLOPs per token", "cache_bytes": "bytes"}
    size, cost = found
    return (
        f"no {free} gives the variant `{variant}` the {target:,.0f} {words[plan.options.match]} of "
        f"the base `{plan.base}`, within {TOLERANCE:.0%}: the nearest is {size}, with "
        f"{cost:,.0f} ({cost / target - 1:+.1%})"
    )
