"""Which variants a recipe describes, and what is said of those that cannot be."""

import pytest

from attnkit.ablation.grids import split_alternatives
from attnkit.ablation.plan import (
    as_overrides,
    load_study,
    plain_changes,
    read_plan,
    side_effects,
)
from attnkit.recipe import RecipeError, load_recipe


def changes(plan):
    return {variant.name: plain_changes(variant.changes) for variant in plan.variants}


def refusal(recipe):
    with pytest.raises(RecipeError) as refused:
        read_plan(recipe)
    return [str(problem).splitlines()[0] for problem in refused.value.problems]


def test_a_grid_makes_every_combination(load):
    plan = read_plan(load(vary={"model.dim": [16, 32], "model.attention.name": ["linear"]}))
    assert changes(plan) == {
        "linear,dim=16": {"model.dim": 16, "model.attention.name": "linear"},
        "linear,dim=32": {"model.dim": 32, "model.attention.name": "linear"},
    }
    assert plan.base == "linear,dim=16"
    assert plan.varied == ["model.dim", "model.attention.name"]
    assert plan.seeds == (0,)


def test_a_variant_of_a_grid_lies_where_a_run_with_that_override_does(load, study):
    (variant,) = read_plan(load(vary={"model.dim": [32]})).variants
    file = study()
    assert load_recipe(file, ["model.dim=32"]).variant == variant.name


def test_named_variants_change_remove_and_replace_keys(load):
    plan = read_plan(
        load(
            variants={
                "plain": {},
                "linear": {"model.attention.name": "linear", "optimizer": {"lr": 0.02}},
                "default_lr": {"~optimizer.lr": None},
            },
            base="linear",
            seeds=[3, 1],
        )
    )
    assert list(changes(plan)) == ["plain", "linear", "default_lr"]
    assert (plan.base, plan.seeds) == ("linear", (3, 1))
    plain, linear, default = (plan.recipe_of(variant) for variant in plan.variants)
    assert plain.model["attention"].options["num_heads"] == 2
    assert linear.model["attention"].name == "linear"
    assert linear.optimizer.options["lr"] == 0.02
    assert default.optimizer.options["lr"] != plain.optimizer.options["lr"]
    assert all(recipe.ablation is None for recipe in (plain, linear, default))
    assert plain.run_dir.parts[-3:] == ("study", "plain", "seed0")


def test_each_named_variant_meets_each_point_of_the_grid(load):
    plan = read_plan(load(variants={"a": {}, "b": {"model.mlp": "relu"}}, vary={"model.dim": [8]}))
    assert changes(plan) == {
        "a,dim=8": {"model.dim": 8},
        "b,dim=8": {"model.mlp": "relu", "model.dim": 8},
    }


def test_a_recipe_without_variants_is_one(load):
    plan = read_plan(load(seeds=2))
    assert changes(plan) == {"base": {}}
    assert plan.seeds == (0, 1)


def test_alternatives_come_from_the_command_line(study):
    file = study()
    recipe = load_study(file, ["model.mask=none,[causal,document]", "optimizer.lr=0.5", "seed=7"])
    assert recipe.optimizer.options["lr"] == 0.5
    variants = changes(read_plan(recipe))
    assert list(variants.values()) == [
        {"model.mask": "none"},
        {"model.mask": ["causal", "document"]},
    ]


def test_ranges_are_drawn_beside_the_recipe_itself(study):
    """The same draws each time; more of them keep the first, so that a study may grow."""
    ranges = ["optimizer.lr=log:1e-4..1e-1", "model.num_layers=1..3"]
    few, again, more, other = (
        changes(read_plan(load_study(study(), [*ranges, *options])))
        for options in (
            ["ablation.draws=3"],
            ["ablation.draws=3"],
            ["ablation.draws=40"],
            ["ablation.draws=3", "ablation.draw_seed=1"],
        )
    )
    assert few == again
    assert list(more)[:4] == list(few)
    assert next(iter(few)) == "base"
    assert not set(few) & set(other) - {"base"}
    drawn = list(more.values())[1:]
    assert len(drawn) == 40
    assert {keys["model.num_layers"] for keys in drawn} == {1, 2, 3}
    rates = [keys["optimizer.lr"] for keys in drawn]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert 10 <= sum(rate < 3.16e-3 for rate in rates) <= 30  # in the logarithm: half of them


def test_each_point_of_the_grid_meets_each_draw(load):
    plan = read_plan(load(vary={"model.dim": [8, 16], "optimizer.weight_decay": "0..0.5"}, draws=2))
    first, second = [v["optimizer.weight_decay"] for v in list(changes(plan).values())[1:3]]
    assert list(changes(plan).values()) == [
        {"model.dim": dim, **more}
        for dim in (8, 16)
        for more in ({}, *({"optimizer.weight_decay": x} for x in (first, second)))
    ]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a.b=1,2,3", ["1", "2", "3"]),
        ("a={x: 1, y: 2},{x: 3}", ["{x: 1, y: 2}", "{x: 3}"]),
        ("a='x,y',[1,2]", ["'x,y'", "[1,2]"]),
    ],
)
def test_commas_inside_of_values_part_nothing(override, values):
    assert split_alternatives([override]) == ([], {override.partition("=")[0]: values})


@pytest.mark.parametrize("override", ["a=[1,2]", "a={x: 1, y: 2}", "~a", "a='x,y'", "a"])
def test_one_value_is_an_override(override):
    assert split_alternatives([override]) == ([override], {})


def test_changes_are_written_as_overrides(load):
    (variant,) = read_plan(
        load(variants={"v": {"model.attention": {"name": "linear"}, "~optimizer.lr": None}})
    ).variants
    assert as_overrides(variant.changes) == ["model.attention={name: linear}", "~optimizer.lr"]


def test_what_a_variant_changes_without_saying_so_is_told(load):
    """Another mechanism takes its own defaults, and not the options of the one that it replaces."""
    plan = read_plan(
        load(
            variants={
                "same": {"model.attention.name": "multi_head"},
                "linear": {"model.attention.name": "linear"},
                "said": {"model.attention": {"name": "linear", "num_heads": 8}},
            }
        )
    )
    assert side_effects(plan) == {"linear": ["model.attention.num_heads: 2 -> 4"]}


def test_every_fault_of_every_variant_is_told_with_its_place(load):
    said = refusal(
        load(
            variants={
                "good": {},
                "typo": {"model.num_haeds": 4},
                "odd": {"model.dim": 15},
                "seer": {"model.position": "alibi", "model.attention.name": "linear"},
            }
        )
    )
    odd, typo, seer = said  # in the order of the file, and the heads are written first
    assert "study.yaml:" in typo
    assert "model.num_haeds: unknown key" in typo
    assert typo.endswith("(in the variant `typo`)")
    assert "(in the variant `odd`)" in odd
    assert "linear" in seer
    assert "alibi" in seer


def test_a_fault_of_many_variants_is_told_once(study):
    with pytest.raises(RecipeError) as refused:
        read_plan(load_study(study(), ["model.attention.naem=a,b", "optimizer.lr=0.1,0.2,0.3"]))
    (problem,) = refused.value.problems
    assert problem.file == "override model.attention.naem=a,b"
    assert problem.key == "model.attention.naem"
    assert problem.message.endswith("(in 6 variants)")


@pytest.mark.parametrize(
    ("ablation", "words"),
    [
        ({"variants": {"a/b": {}}}, "'a/b' is not allowed here"),
        ({"variants": {"A": {}, "a": {"model.dim": 8}}}, "two variants are called `a`"),
        ({"variants": {"a": 3}}, "ablation.variants.a: expected the keys"),
        ({"variants": {"a": {"model..dim": 8}}}, "`model..dim` is not a key"),
        ({"variants": {"a": {"~model.dim": 8}}}, "takes no value"),
        ({"variants": {"a": {"~model.width": None}}}, "no such key to remove"),
        ({"variants": {"a": {"seed": 8}}}, "set the seeds in ablation.seeds"),
        ({"variants": {"a": {}}, "base": "b"}, "there is no variant `b` (there are: a)"),
        ({"vary": {"model.dim": 8}}, "expected a list of values"),
        ({"vary": {"model.dim": []}}, "expected a list of values"),
        ({"vary": {"optimizer.lr": "0.1"}}, "or a range, such as 0..0.3"),
        ({"vary": {"optimizer.lr": "log:1e-2"}}, "expected a range, such as 0..0.3"),
        ({"vary": {"optimizer.lr": "0.2..0.1"}}, "ends at 0.1; write the lower first"),
        ({"vary": {"optimizer.lr": "log:0..0.1"}}, "must begin above 0, got 0"),
        (
            {"vary": {"model.num_layers": "1..3"}, "draws": 4},
            "have 3 combinations, fewer than ablation.draws (4)",
        ),
        ({"vary": {"seed": "1..3"}, "draws": 2}, "set the seeds in ablation.seeds"),
        ({"vary": {"runs_dir": ["a"]}}, "the same for all variants"),
        ({"vary": {"model.dim": [8, 8]}}, "two variants are called `dim=8`"),
        (
            {"vary": {f"data.x{i}": [*range(10)] for i in range(12)}},
            "ablation.vary: 1,000,000,000,000 combinations; the limit is 1,000",
        ),
        (
            {"variants": {"a": {}, "b": {}}, "vary": {"model.dim": [*range(8, 609)]}},
            "ablation: 1,202 combinations",
        ),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": [-1]}, "from 0 on"),
    ],
)
def test_what_no_study_can_be_is_refused(ablation, words, load):
    said = refusal(load(**ablation))
    assert any(words in line for line in said), said
    assert all(line.startswith(("study.yaml", "/")) for line in said)


@pytest.mark.parametrize(
    ("ablation", "words"),
    [
        ({"sedes": 3}, "ablation.sedes: unknown key; did you mean `seeds`?"),
        ({"seeds": 0}, "ablation.seeds: must be at least 1"),
        ({"match": "params"}, "ablation.match: expected `parameters`"),
        ({"budget": {"hours": 1}}, "ablation.budget.hours: unknown key"),
        ({"launcher": "slrum"}, "did you mean `slurm`?"),
        ({"launcher": {"name": "local", "thread": 1}}, "did you mean `threads`?"),
    ],
)
def test_the_section_has_a_schema(ablation, words, study):
    with pytest.raises(RecipeError, match=words.replace("?", r"\?")):
        load_recipe(study(**ablation))


def test_a_single_run_is_told_from_a_study(load):
    from attnkit.runs import experiment

    recipe = load(variants={"a": {}})
    with pytest.raises(RecipeError, match=r"ablation: .*attnkit ablate .*study.yaml.*~ablation"):
        experiment.run(recipe)
    assert not recipe.runs_dir.exists()
    single = recipe.with_overrides("~ablation")
    assert single.run_dir.parts[-2] == "base"
    assert "ablation" not in single.to_dict()
