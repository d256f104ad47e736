"""What `list` and `show` say."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch

from attnkit.attention.kernels import KERNELS
from attnkit.cli import name_report, recipe_report
from attnkit.hardware import devices
from attnkit.masks import build_mask
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import RecipeError, load_recipe
from attnkit.registry import ATTENTION, MASKS, POSITIONS, REQUIRED, WIRINGS, RegistryError, Spec

RECIPES = Path(__file__).parents[2] / "recipes"
QUICKSTART = RECIPES / "language_modeling/quickstart.yaml"


# Names


def test_every_name_is_listed_with_what_it_is(read):
    name_report.show_names()
    lines = [" ".join(line.split()) for line in read().splitlines()]
    for registry in name_report.REGISTRIES:
        assert registry.kind in lines
        for name in registry.names():
            assert f"{name} {registry.summary(name)}" in lines
            assert registry.summary(name).endswith((".", "`."))


def test_recipes_are_listed_with_their_first_sentence(read, tmp_path):
    folder = tmp_path / "[red]"
    folder.mkdir()
    (folder / "one.yaml").write_text(
        "# A recipe\n# of two lines. And a second sentence.\nname: x\n"
    )
    (folder / "two.yaml").write_text("name: x\n")
    name_report.show_names(recipes=tmp_path)
    lines = [" ".join(line.split()) for line in read().splitlines()]
    assert f"{folder / 'one.yaml'} A recipe of two lines." in lines
    assert f"{folder / 'two.yaml'}" in lines


def test_a_folder_without_recipes_is_named(read, tmp_path):
    name_report.show_names(recipes=tmp_path)
    assert f"no recipes under {tmp_path}/" in read()


@pytest.mark.parametrize("name", ATTENTION.names())
def test_a_mechanism_is_shown_with_formula_paper_options_and_kernels(name, read):
    name_report.show(name, [], [])
    shown = read()
    mechanism = ATTENTION.get(name)
    assert mechanism.formula in shown
    assert mechanism.paper in shown
    assert mechanism.map_rows in shown
    assert "kernels here" in shown
    for option in ATTENTION.options(name).values():
        (line,) = (line for line in shown.splitlines() if line.split()[:1] == [option.name])
        assert option.help in line
        if option.default is REQUIRED:
            assert "required" in line


def test_kernels_are_timed_on_this_machine(read, monkeypatch):
    """A line for each kernel that can compute a case, in 80 columns; one of each case is chosen."""
    monkeypatch.setattr(name_report.console, "_width", 80)
    name_report.measure("multi_head", [32, 130], [])
    lines = [line.split() for line in read().splitlines() if line.split()[:1] in (["32"], ["130"])]
    assert all(len(" ".join(line)) <= 80 for line in lines)
    cases = {}
    for tokens, *words in lines:
        kernel = next(word for word in words if word in KERNELS)
        at = words.index(kernel)
        milliseconds, mebibytes = map(float, words[at + 1 : at + 3])
        assert milliseconds > 0
        assert mebibytes >= 0
        chosen = words[at + 3 :] == ["chosen"]
        cases.setdefault((tokens, *words[:at]), []).append((kernel, chosen))
    assert len(cases) == 2 * 8
    assert all(sum(chosen for _, chosen in found) == 1 for found in cases.values())
    window = [kernel for kernel, _ in cases["130", "sliding_window", "64"]]
    assert {"windowed", "sdpa", "reference"} <= set(window)


def test_a_kernel_that_fails_while_it_is_timed_is_told_and_others_are_timed(read, monkeypatch):
    def fail(self, call):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(devices, "fast_dtype", lambda *_: torch.float32)
    monkeypatch.setattr(type(KERNELS["sdpa"]), "__call__", fail)
    name_report.measure("multi_head", [8], [])
    lines = [" ".join(line.split()) for line in read().splitlines()]
    assert "8 causal sdpa - - chosen; not measured: no kernel for this" in lines
    assert any(line.startswith("8 causal reference ") for line in lines)


def test_what_cannot_be_timed_is_told():
    with pytest.raises(RegistryError, match="linear computes its heads itself"):
        name_report.measure("linear", [8], [])
    with pytest.raises(RegistryError, match="--tokens must be at least 1, got 0"):
        name_report.measure("multi_head", [0], [])
    with pytest.raises(RegistryError, match="mult_head"):
        name_report.measure("mult_head", [8], [])


def test_a_mask_is_drawn_as_it_acts(read):
    name_report.show("sliding_window", [], [])
    drawn = [line.split() for line in read().splitlines() if set(line.split()) <= {"■", "·"}]
    cells = torch.tensor([[cell == "■" for cell in row] for row in drawn if row])
    expected = build_mask({"name": "sliding_window", "window": 4}).dense(12, 12)[0, 0]
    assert torch.equal(cells, expected)


@pytest.mark.parametrize("name", MASKS.names())
def test_every_mask_can_be_drawn(name, read):
    name_report.show(name, [], [])
    assert read().count("■") >= 12


def test_a_name_of_two_kinds_is_shown_twice(read):
    name_report.show("none", [], [])
    shown = read()
    assert "mask, attnkit.masks" in shown
    assert f"position encoding, {POSITIONS.get('none').__module__}" in shown


def test_a_plugin_can_be_shown(read, tmp_path):
    plugin = tmp_path / "shown_plugin.py"
    plugin.write_text(
        "from attnkit import ATTENTION\n"
        "from attnkit.attention.multi_head import MultiHead\n\n\n"
        "@ATTENTION.register('shown_plugin')\n"
        "class Shown(MultiHead):\n"
        "    '''Shows itself.'''\n\n"
        "    formula = 'a = b'\n"
    )
    try:
        name_report.show("shown_plugin", [], [str(plugin)])
        shown = read()
        assert "Shows itself." in shown
        assert "a = b" in shown
        assert "num_heads" in shown
    finally:
        ATTENTION._classes.pop("shown_plugin")


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(RegistryError, match=r"`rotery`; did you mean `rotary`\? \(`attnkit list`"):
        name_report.show("rotery", [], [])


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "whole number"),
        (float | None, "number or null"),
        (bool, "true or false"),
        (str | list[str], "text or list of text"),
        (tuple[float, float], "tuple of number"),
        (Literal["a", 3], "a | 3"),
        (Annotated[Spec, MASKS], "mask"),
        (Annotated[Spec | list[Spec], MASKS], "mask, or a list of them"),
        (Annotated[tuple[Spec, ...], MASKS], "list (mask)"),
        (tuple[str, ...], "list of text"),
        (dict[str, float] | None, "mapping or null"),
        (Annotated[int, "at least 1"], "whole number"),
    ],
)
def test_types_are_told_in_words(annotation, words):
    assert name_report.type_words(annotation) == words


# Recipes


def test_the_parameters_of_a_recipe_are_those_of_its_model(read, numbers):
    recipe_report.show_recipe(QUICKSTART, ["tokenizer=byte", "model.dim=64"])
    shown = read()
    recipe = load_recipe(QUICKSTART, ["tokenizer=byte", "model.dim=64"])
    model = LanguageModel(257, **recipe.model)
    assert numbers(shown, "all") == [sum(p.numel() for p in model.parameters())]
    assert numbers(shown, "query + key + value + output")[0] == 4 * 4 * 64 * 64
    assert numbers(shown, "vocabulary")[0] == 257
    assert numbers(shown, "cache per token")[:2] == [4 * 2 * 64 * 4, 4 * 2 * 64 * 2]
    parts = ("projections", "mixing", "mlp", "head")
    lines = shown[shown.index("training FLOPs per token") :]
    assert sum(numbers(lines, part)[0] for part in parts) == numbers(lines, "training FLOPs per")[0]


def test_a_pattern_is_shown_layer_by_layer(read):
    """Equal layers in a row in one line; nothing where all are equal."""
    name_report.show("local_global", [], [])
    shown = read()
    rows = [line.split() for line in shown.splitlines() if " 196,864 " in line]
    assert rows == [
        ["0-1", "sliding_window", "(16)", "rotary", "196,864", "1,201,344", "16,384"],
        ["2", "causal", "none", "196,864", "1,229,568", "65,536"],
        ["3-4", "sliding_window", "(16)", "rotary", "196,864", "1,201,344", "16,384"],
        ["5", "causal", "none", "196,864", "1,229,568", "65,536"],
    ]
    assert "all layers                attention multi_head, MLP gelu, wiring pre_norm" in shown
    assert max(map(len, shown.splitlines())) <= 80
    name_report.show("quickstart", [], [])
    assert "pre_norm" not in read()


def test_names_of_layers_stay_whole_in_80_columns(read, monkeypatch):
    monkeypatch.setattr(name_report.console, "_width", 80)
    other = (
        "attention: grouped_query, position: relative_bias, mask: {name: sliding_window, window: 9}"
    )
    layers = f"model.layers=[{{attention: multi_head, mask: causal}}, {{{other}}}]"
    name_report.show("local_global", [layers], [])
    shown = read()
    assert max(map(len, shown.splitlines())) <= 80
    assert {"multi_head,", "grouped_query,", "sliding_window", "relative_bias"} <= set(
        shown.split()
    )


@pytest.mark.parametrize("name", WIRINGS.names())
def test_a_wiring_is_shown_with_formula_and_paper(name, read):
    name_report.show(name, [], [])
    shown = " ".join(read().split())
    assert WIRINGS.get(name).formula in shown
    assert WIRINGS.get(name).paper in shown


def test_gpt3_on_paper(read, numbers):
    recipe_report.show_recipe(RECIPES / "language_modeling/gpt3.yaml", [])
    shown = read()
    assert numbers(shown, "query + key + value + output")[0] == 57_982_058_496
    assert numbers(shown, "all")[0] == pytest.approx(175e9, rel=0.003)


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("auto", "exact, no TF32"),
        ("32", "exact, no TF32"),
        ("bf16", "exact, no TF32"),
        ("tf32", "rounded to TF32 on a GPU"),
    ],
)
def test_a_recipe_tells_whether_products_are_rounded_to_tf32(read, precision, said):
    recipe_report.show_recipe(QUICKSTART, [f"trainer.precision={precision}"])
    assert f"float32 products          {said} (trainer.precision {precision})\n" in read()


def test_a_model_without_attention_has_no_cache(read):
    recipe_report.show_recipe(QUICKSTART, ["model.num_layers=0"])
    assert "cache per token           0 bytes" in read()


def test_a_recipe_with_faults_is_not_shown(read):
    with pytest.raises(RecipeError, match=r"model.dims: unknown key"):
        recipe_report.show_recipe(QUICKSTART, ["model.dims=3"])
    assert read() == ""


PLUGIN = '''\
from attnkit import ATTENTION
from attnkit.attention.multi_head import MultiHead


@ATTENTION.register("shown_attention")
class ShownAttention(MultiHead):
    """Its own."""

    formula = "{formula}"
'''


def test_a_mechanism_is_shown_with_its_file_and_its_own_paper(read, tmp_path, monkeypatch):
    monkeypatch.setattr(ATTENTION, "_classes", dict(ATTENTION._classes))
    file = tmp_path / "shown.py"
    file.write_text(PLUGIN.format(formula="softmax(2 q k) v"))
    name_report.show("shown_attention", [], [str(file)])
    shown = read()
    assert str(file) in shown.replace("\n", "")
    assert "attnkit_plugin" not in shown
    assert "softmax(2 q k) v" in shown
    assert ATTENTION.get("multi_head").paper not in shown
    assert re.search(r"paper +not stated", shown)
