"""Patterns of layers in a recipe: what each layer is, overrides of an entry, what is refused."""

import pytest

from attnkit.ablation.match import free_keys
from attnkit.ablation.plan import load_study, read_plan
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import RecipeError, load_recipe, recipe_from_dict

LOCAL_GLOBAL = """
name: pattern
model:
  dim: 16
  max_seq_len: 32
  num_layers: 6
  attention: {name: multi_head, num_heads: 2}
  mlp_dim: 20
  layers:
    - {repeat: 2, mask: {name: sliding_window, window: 8}, position: rotary}
    - {mask: causal, position: none, mlp: {name: swiglu}, mlp_dim: 12}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pattern.yaml"
    path.write_text(LOCAL_GLOBAL)
    return path


def layers(recipe):
    return LanguageModel.layer_options(recipe.model)


def refused(*overrides, text=LOCAL_GLOBAL, tmp_path=None):
    path = tmp_path / "pattern.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_a_pattern_is_repeated_until_all_layers_are_served(file):
    recipe = load_recipe(file)
    made = layers(recipe)
    assert [layer.entry for layer in made] == [0, 0, 1, 0, 0, 1]
    assert [layer.position.name for layer in made] == ["rotary", "rotary", "none"] * 2
    assert [layer.mlp.name for layer in made] == ["gelu", "gelu", "swiglu"] * 2
    assert [layer.mlp_dim for layer in made] == [20, 20, 12] * 2
    assert {layer.attention.options["num_heads"] for layer in made} == {2}
    model = LanguageModel(9, **recipe.model)
    assert not list(model.position.parameters())  # no layer asks for the section's learned one
    assert [mask.back for mask in model.layer_masks()] == [7, 7, None] * 2


def test_a_pattern_may_end_within_a_cycle(file):
    made = layers(load_recipe(file, ["model.num_layers=5"]))
    assert [layer.entry for layer in made] == [0, 0, 1, 0, 0]


def test_an_entry_stands_above_a_list_of_mechanisms(file):
    listed = "model.attention=[linear, multi_head, linear, multi_head, linear, multi_head]"
    made = layers(load_recipe(file, [listed, "model.layers=[{mlp: relu}, {attention: sigmoid}]"]))
    names = [layer.attention.name for layer in made]
    assert names == ["linear", "sigmoid", "linear", "sigmoid", "linear", "sigmoid"]


def test_without_a_pattern_nothing_is_another():
    recipe = recipe_from_dict({"name": "plain", "model": {"num_layers": 3, "dim": 16}})
    assert recipe.model["layers"] is None
    assert len({repr(layer) for layer in layers(recipe)}) == 1


def test_a_resolved_recipe_is_read_again_as_it_was(file, tmp_path):
    recipe = load_recipe(file)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml())
    assert load_recipe(again) == recipe


def test_overrides_reach_into_an_entry(file):
    overrides = ["model.layers[0].mask.window=4", "model.layers[1].attention=linear"]
    made = layers(load_recipe(file, [*overrides, "~model.layers[1].mlp_dim"]))
    assert made[0].mask.options["window"] == 4
    assert made[2].attention.name == "linear"
    assert made[2].mlp_dim == 20
    assert made[0].position.name == "rotary"


def test_an_override_of_a_list_of_mechanisms_reaches_one_of_them():
    keys = {"name": "x", "model": {"dim": 16, "num_layers": 2, "attention": ["linear", "sink"]}}
    recipe = recipe_from_dict(keys, ["model.attention[1].num_heads=2"])
    assert [spec.name for spec in recipe.model["attention"]] == ["linear", "sink"]
    assert recipe.model["attention"][1].options["num_heads"] == 2


def test_the_name_of_a_variant_has_no_brackets(file):
    recipe = load_recipe(file, ["model.layers[0].mask.window=4"])
    assert recipe.variant == "layers.0.mask.window=4"


def test_an_entry_is_an_axis_of_a_study(file):
    plan = read_plan(load_study(file, ["model.layers[0].mask.window=4,16"]))
    assert [variant.name for variant in plan.variants] == [
        "layers.0.mask.window=4",
        "layers.0.mask.window=16",
    ]
    windows = [layers(plan.recipe_of(variant))[0].mask for variant in plan.variants]
    assert [mask.options["window"] for mask in windows] == [4, 16]


def test_what_is_solved_for_is_found_in_the_entries_too(file):
    recipe = load_recipe(file, ["model.layers[1].attention={name: grouped_query, num_heads: 2}"])
    plan = read_plan(load_study(file, ["ablation.match=cache_bytes"]))
    assert free_keys(plan, recipe) == [
        "model.attention.head_dim",
        "model.layers[1].attention.head_dim",
    ]
    assert free_keys(plan, load_recipe(file)) == ["model.attention.head_dim"]


def test_a_translator_takes_a_pattern_in_each_part(tmp_path):
    keys = {
        "name": "both",
        "task": "translation",
        "data": "reverse",
        "tokenizer": "word",
        "model": {
            "dim": 16,
            "encoder": {"num_layers": 2, "layers": [{"mlp": "swiglu"}, {"norm": "rms_norm"}]},
            "decoder": {
                "num_layers": 4,
                "layers": [
                    {"mask": {"name": "sliding_window", "window": 4}},
                    {"cross": {"name": "grouped_query"}, "position": "rotary"},
                ],
            },
        },
    }
    model = EncoderDecoder(9, **recipe_from_dict(keys).model)
    crossing = [type(layer.cross_attention).__name__ for layer in model.decoder.layers]
    assert crossing == ["MultiHead", "GroupedQuery"] * 2
    assert [type(layer.mlp).__name__ for layer in model.encoder.layers] == ["SwiGLU", "Relu"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.num_layers=2"], "pattern.yaml:10:5: model.layers: layers describes 3 layers, but"),
        (["model.num_layers=2"], "set num_layers to at least 3, or shorten the pattern"),
        (
            ["model.layers=[]"],
            "model.layers: layers lists no layer; leave it out, or write an entry",
        ),
        (["model.layers[0].repeat=0"], "model.layers[0].repeat: must be at least 1, got 0"),
        (["model.layers[0].dropout=2"], "model.layers[0].dropout: must be in [0, 1), got 2.0"),
        (
            ["model.layers[1].attention=linformer"],
            "model.layers[1].attention: linformer cannot obey the mask causal (it obeys: none, "
            "padding) (in layer 2)",
        ),
        (
            ["model.layers[0].attention=retention"],
            "model.layers[0].attention: retention cannot obey the mask sliding_window",
        ),
        (
            ["model.layers[1].attention={name: multi_head, num_heads: 5}"],
            "model.layers[1].attention: num_heads 5 does not divide dim 16; set head_dim or "
            "another number (in layer 2)",
        ),
        (
            ["model.layers[1].position=learned", "model.layers[0].position=sinusoidal"],
            "layers name sinusoidal and learned, which are added to the embeddings that all",
        ),
        (["model.layers[2].mlp=relu"], "model.layers[2]: there is no such element; model.layers"),
        (["model.attention[0].num_heads=1"], "model.attention is not a list"),
        (["model.layers.mlp=relu"], "model.layers: this is a list; an override sets it as a whole"),
        (["~model.layers[0].mlp"], "there is no such key to remove"),
        (["model.layers[1].mpl=relu"], "model.layers[1].mpl: unknown key; did you mean `mlp`?"),
        (
            ["model.layers=[{mask: sliding_window, window: 4}]"],
            "model.layers[0].window: unknown key; it belongs under `model.layers[0].mask`",
        ),
        (["model.layers[1].dim=8"], "model.layers[1].dim: unknown key; it belongs under `model`"),
        (["model.layers[1].cross=linear"], "model.layers[1].cross: unknown key"),
        (["model.layers[1].mlp=geglu"], "unknown MLP `geglu`; did you mean `gelu`?"),
        (["model.wiring=paralel"], "unknown wiring of a layer `paralel`; did you mean `parallel`?"),
        (
            ["~model.layers", "model.attention=[linear, sink, sink, linformer, sink, sink]"],
            "model.attention: attention linformer cannot obey the mask causal (it obeys: none, "
            "padding) (in layer 3)",
        ),
        (["model.layers=rotary"], "expected a list or null, got text 'rotary'"),
    ],
)
def test_what_is_wrong_is_told_with_its_entry(overrides, said, tmp_path):
    assert said in refused(*overrides, tmp_path=tmp_path)


def test_a_mechanism_that_fits_to_none_below_it_is_refused(tmp_path):
    text = """
name: x
model:
  dim: 16
  num_layers: 2
  layers:
    - {attention: {name: value_residual, num_heads: 2}}
    - {attention: {name: value_residual, num_heads: 4}}
"""
    said = refused(text=text, tmp_path=tmp_path)
    assert "model.layers[1].attention: value_residual has 4 heads of width 4" in said
