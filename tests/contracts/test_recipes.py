"""Every recipe that is shipped: it loads, shows itself, builds, trains, and says what to see."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.models.accounting import parameter_counts
from attnkit.recipe import load_recipe
from attnkit.registry import TOKENIZERS
from attnkit.runs import experiment

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
TOO_LARGE = 1_000_000_000
"""From this many parameters on, a recipe is there to be looked at."""

every_recipe = pytest.mark.parametrize(
    "path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER).with_suffix(""))
)


def on_paper(recipe, vocab_size=100):
    """The model without its memory."""
    with torch.device("meta"):
        return recipe.definition.build_model(recipe, vocab_size)


def test_there_are_recipes():
    names = {path.stem for path in RECIPES}
    assert names >= {
        "quickstart",
        "characters",
        "shakespeare_char",
        "shakespeare_speedrun",
        "shakespeare_char_gpu",
        "wikitext",
        "gpt2_124m",
        "unmasked",
        "gpt3",
    }


def test_the_first_picture_has_words():
    """Maps over characters are diagonals; those of the first run say something."""
    tokenizers = {name: load_recipe(name).tokenizer.name for name in ("quickstart", "characters")}
    assert tokenizers == {"quickstart": "bpe", "characters": "char"}


@every_recipe
def test_it_says_what_it_is_and_what_one_should_see(path):
    head = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    comment = " ".join(head)
    assert re.search(r"What to see: .{20}", comment), comment
    assert comment.endswith(".")


@every_recipe
def test_it_loads_and_shows_itself(path, tmp_path):
    recipe = load_recipe(path)
    assert recipe.name in (path.stem, f"{path.parent.name}_{path.stem}")
    ended = CliRunner().invoke(app, ["run", str(path), "--dry-run"])
    assert ended.exit_code == 0, ended.output
    resolved = tmp_path / path.name
    resolved.write_text(ended.stdout, encoding="utf-8")
    assert load_recipe(resolved) == recipe
    assert CliRunner().invoke(app, ["show", str(path)]).exit_code == 0


@every_recipe
def test_it_builds(path):
    recipe = load_recipe(path)
    model = on_paper(recipe)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1000
    data = experiment.build_data(recipe)  # reads nothing yet
    assert data.max_seq_len == model.max_seq_len
    if recipe.task != "synthetic":  # which has a vocabulary of its own
        assert type(data.tokenizer) is TOKENIZERS.get(recipe.tokenizer.name)


def one_layer(recipe):
    """Overrides for one layer where a recipe has several of a kind: each is traced anew."""
    model = recipe.to_dict()["model"]
    for section, options in (("model", model), *((f"model.{k}", v) for k, v in model.items())):
        if isinstance(options, dict) and "num_layers" in options:
            alike = not isinstance(options["attention"], list) and not options.get("layers")
            if alike:
                yield f"{section}.num_layers=1"


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "compiled"]
)
@every_recipe
def test_it_takes_two_steps(path, compiled, tiny_samples, graphs, in_small):
    """With everything that it writes, in small, on a text of a few lines: no download, and no
    validation over megabytes. Compiled, it is one graph to train and one to validate.
    """
    recipe = load_recipe(path)
    if sum(parameter.numel() for parameter in on_paper(recipe).parameters()) > TOO_LARGE:
        pytest.skip("too large to be trained here")
    small = [
        *in_small(recipe),
        "trainer.accelerator=cpu",
        f"trainer.compile={str(compiled).lower()}",
        *one_layer(recipe),
    ]
    result = experiment.run(load_recipe(path, small))
    assert graphs == ([True, False] if compiled else [])
    assert result.record["status"] == "finished"
    assert result.record["steps"] == 2
    assert 0 < result.metrics["loss"] < 11  # that of the largest vocabulary is 10.8 untrained
    assert (result.directory / "result.json").is_file()
    if recipe.task == "language_modeling":
        assert result.record["loss_is_language_modeling"] == (recipe.name != "unmasked")


# What the recipes promise


def shipped(name):
    return load_recipe(FOLDER / "language_modeling" / f"{name}.yaml")


def test_gpt3_has_the_attention_of_the_paper():
    parts = parameter_counts(on_paper(shipped("gpt3"), vocab_size=50257))
    attention = sum(parts[part] for part in ("query", "key", "value", "output"))
    assert attention == 57_982_058_496
    assert sum(parts.values()) == pytest.approx(175e9, rel=0.003)


def test_gpt2_has_the_size_of_the_published_weights():
    recipe = shipped("gpt2_124m")
    parts = parameter_counts(on_paper(recipe, vocab_size=50257))
    assert sum(parts.values()) == 124_439_808
    vocabulary = recipe.tokenizer.options
    assert (vocabulary["vocab_size"], vocabulary["end"]) == (50304, 50256)
    model, trainer = recipe.model, recipe.trainer
    assert (model["num_layers"], model["dim"], model["max_seq_len"]) == (12, 768, 1024)
    assert model["attention"].options["num_heads"] == 12
    assert trainer.batch_size * trainer.accumulate * model["max_seq_len"] == 2**19


def test_the_shakespeare_baseline_is_the_one_that_many_know():
    recipe = shipped("shakespeare_char")
    model, trainer = recipe.model, recipe.trainer
    assert (model["num_layers"], model["dim"], model["max_seq_len"]) == (4, 128, 64)
    assert model["attention"].options["num_heads"] == 4
    assert model["dropout"] == 0
    assert (trainer.batch_size, trainer.max_steps) == (12, 2000)
    assert recipe.optimizer.options["lr"] == 1e-3
    assert tuple(recipe.optimizer.options["betas"]) == (0.9, 0.99)
    assert recipe.schedule.name == "cosine"
    assert recipe.schedule.options["final_ratio"] == 0.1
    assert recipe.schedule.options["warmup_steps"] == 100


def test_the_larger_shakespeare_is_the_one_for_a_gpu():
    recipe = shipped("shakespeare_char_gpu")
    model, trainer = recipe.model, recipe.trainer
    assert (model["num_layers"], model["dim"], model["max_seq_len"]) == (6, 384, 256)
    assert model["attention"].options["num_heads"] == 6
    assert model["dropout"] == model["attention"].options["dropout"] == 0.2
    assert (trainer.batch_size, trainer.max_steps) == (64, 5000)


def test_the_speedrun_is_of_the_baselines_size():
    sizes = ("num_layers", "dim", "max_seq_len")
    fast, plain = shipped("shakespeare_speedrun"), shipped("shakespeare_char")
    assert [fast.model[size] for size in sizes] == [plain.model[size] for size in sizes]
    assert fast.model["attention"].options["num_heads"] == 4


def test_unmasked_differs_from_characters_in_its_mask_alone():
    unmasked, masked = shipped("unmasked").to_dict(), shipped("characters").to_dict()
    assert unmasked["model"].pop("mask") == {"name": "none"}
    assert masked["model"].pop("mask") == {"name": "causal"}
    assert unmasked.pop("name") != masked.pop("name")
    assert unmasked == masked
