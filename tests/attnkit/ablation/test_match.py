"""Variants are made as large as the base, and what cannot be is said."""

import pytest

from attnkit.ablation.costs import CostModel
from attnkit.ablation.match import TOLERANCE, matched, nearest_size
from attnkit.ablation.plan import plain_changes, read_plan
from attnkit.recipe import RecipeError


def solve(recipe):
    count = CostModel()
    plan = matched(read_plan(recipe), count)
    costs = {v.name: count(plan.recipe_of(v)) for v in plan.variants}
    return {v.name: plain_changes(v.matched) for v in plan.variants}, costs


VARIANTS = {
    "base": {"model.attention.num_heads": 4},
    "kv": {"model.attention": {"name": "multi_query", "num_heads": 4}},
    "swiglu": {"model.mlp": "swiglu"},
    "deep": {"model.num_layers": 3},
}


@pytest.mark.parametrize("match", ["parameters", "flops"])
def test_the_width_of_the_mlp_is_solved_for(match, load):
    changed, costs = solve(load(variants=VARIANTS, match=match))
    target = getattr(costs["base"], match)
    for name, cost in costs.items():
        assert getattr(cost, match) == pytest.approx(target, rel=TOLERANCE), name
    assert changed["base"] == {}
    assert all(list(changed[name]) == ["model.mlp_dim"] for name in ("kv", "swiglu", "deep"))


def test_without_an_mlp_it_is_the_width_of_the_model(load):
    variants = {"base": {"model.dim": 96}, "alone": {"model.dim": 64, "model.mlp": "none"}}
    changed, costs = solve(load(variants=variants, match="parameters"))
    assert costs["alone"].parameters == pytest.approx(costs["base"].parameters, rel=TOLERANCE)
    assert changed["alone"]["model.dim"] % 2 == 0  # two heads share it


def test_a_cache_is_matched_by_the_width_of_the_heads(load):
    variants = {
        "base": {"model.attention": {"name": "multi_head", "num_heads": 4, "head_dim": 32}},
        "shared": {"model.attention": {"name": "grouped_query", "num_heads": 4, "num_kv_heads": 1}},
    }
    changed, costs = solve(load(variants=variants, match="cache_bytes"))
    assert changed["shared"] == {"model.attention.head_dim": 128}
    assert costs["shared"].cache_bytes == costs["base"].cache_bytes


def test_who_is_close_enough_is_left_alone(load):
    changed, _ = solve(load(variants={"a": {}, "b": {"optimizer.lr": 0.5}}, match="parameters"))
    assert changed == {"a": {}, "b": {}}


@pytest.mark.parametrize(
    ("ablation", "words"),
    [
        (
            {"variants": {"base": {}, "huge": {"model.dim": 64}}},
            ["`huge`", "parameters of the base `base`", "the nearest is 1, with", "ablation.free"],
        ),
        (
            {"variants": {"base": {}, "wide": {"model.dim": 8}}, "free": "model.num_layers"},
            ["no model.num_layers", "the nearest is ", "ablation.match to `none`"],
        ),
        (
            {"variants": {"base": {}, "wide": {"model.dim": 8}}, "free": "model.mlp_dmi"},
            ["no model.mlp_dmi is valid for the variant `wide`", "did you mean `mlp_dim`?"],
        ),
        (
            {"variants": {"base": {}, "kv": {"model.attention": "multi_query"}}}
            | {"match": "cache_bytes", "free": "model.mlp_dim"},
            ["model.mlp_dim does not change the cache_bytes of the variant `kv`"],
        ),
    ],
)
def test_what_no_size_can_match_is_one_clear_error(ablation, words, load):
    with pytest.raises(RecipeError) as refused:
        solve(load(**{"match": "parameters", **ablation}))
    (problem,) = refused.value.problems
    assert problem.key == "ablation.match"
    assert problem.line > 0
    for word in words:
        assert word in problem.message


@pytest.mark.parametrize(("step", "target"), [(1, 700), (2, 701), (8, 1), (12, 5000), (1, 0.5)])
def test_the_nearest_size_is_found_among_those_that_can_be(step, target):
    """Against a search through all of them."""

    def cost(size):
        return 3.0 * size + 11 if size % step == 0 else None

    found = nearest_size(cost, target)
    assert found is not None
    sizes = range(step, 4096, step)
    assert abs(found[1] - target) == min(abs(3.0 * size + 11 - target) for size in sizes)


def test_no_size_at_all():
    assert nearest_size(lambda size: None, 10) is None
