"""A budget becomes steps of each variant."""

import pytest

from attnkit.ablation.budget import budget_changes
from attnkit.ablation.costs import CostModel
from attnkit.ablation.plan import plain_changes, read_plan
from attnkit.ablation.study import Study
from attnkit.recipe import RecipeError

VARIANTS = {"base": {}, "wide": {"model.dim": 64}, "large": {"trainer.batch_size": 16}}


def steps(recipe):
    plan = read_plan(recipe)
    study = Study(plan, CostModel())
    return {each.name: study.recipe(each.name).trainer.max_steps for each in plan.variants}


def test_steps(load):
    assert steps(load(variants=VARIANTS, budget={"steps": 7})) == {"base": 7, "wide": 7, "large": 7}


def test_tokens(load):
    found = steps(load(variants=VARIANTS, budget={"tokens": 128_000}))
    assert found == {"base": 1000, "wide": 1000, "large": 500}


def test_flops(load):
    recipe = load(variants=VARIANTS, budget={"flops": 5e9})
    plan, count = read_plan(recipe), CostModel()
    study = Study(plan, count)
    for variant in plan.variants:
        trained = study.recipe(variant.name)
        costs = count(trained)
        spent = trained.trainer.max_steps * costs.tokens_per_step * costs.flops
        assert spent == pytest.approx(5e9, rel=0.01)


def test_seconds(load):
    """As many steps as fit; the clock stops what turns out slower."""
    plan = read_plan(load(variants={"base": {}}, budget={"seconds": 30}))
    costs = CostModel()(plan.recipe_of(plan.variants[0]))
    found = plain_changes(budget_changes(plan, "base", costs, step_seconds=0.02))
    assert found == {"trainer.max_steps": 1425, "trainer.max_time": 30.0}


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"steps": 3, "tokens": 1000}, "expected one of steps, tokens, flops and seconds"),
        ({}, "expected one of steps, tokens, flops and seconds"),
        (
            {"tokens": 200},
            "200 tokens is not a whole number of steps of 128 for the variant",
        ),
        ({"flops": 1}, "raise the budget"),
    ],
)
def test_what_no_step_can_spend_is_refused(budget, words, load):
    recipe = load(variants=VARIANTS, budget=budget)
    with pytest.raises(RecipeError, match=words) as refused:
        steps(recipe)
    assert refused.value.problems[0].key == "ablation.budget"


def test_without_a_budget_the_recipes_own_steps_hold(load):
    assert steps(load(variants={"base": {}, "long": {"trainer.max_steps": 9}})) == {
        "base": 6,
        "long": 9,
    }
