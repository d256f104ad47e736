"""The example of a task in one plugin file: it trains, resumes, is compared, shows its maps."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.errors import DataError
from attnkit.recipe import RecipeError, load_recipe
from attnkit.registry import TASKS
from attnkit.runs import experiment
from attnkit.tasks.trained_run import export_run, load_run

FOLDER = Path(__file__).parents[2] / "examples" / "plugins"
DIGITS = FOLDER / "digits.yaml"

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """`recipe("key=value")`: the example in small."""
    runs = tmp_path_factory.mktemp("runs")
    small = ["model.dim=32", "model.num_layers=1", "trainer.max_steps=80", "trainer.precision=32"]
    small += ["trainer.accelerator=cpu", "logging.attention_maps=2", "logging.samples=1"]

    def make(*overrides, runs_dir=runs):
        return load_recipe(DIGITS, [f"runs_dir={runs_dir}", *small, *overrides])

    yield make
    TASKS._classes.pop("image_classification", None)


@pytest.fixture(scope="module")
def result(recipe):
    return experiment.run(recipe())


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_plugin_is_short():
    assert len((FOLDER / "digits.py").read_text().splitlines()) < 150


def test_it_learns_to_read_digits(result):
    assert result.metrics["accuracy"] > 0.3  # 0.1 by chance
    assert result.record["status"] == "finished"
    assert result.record["training_flops_per_token"] > 0
    curves = load_run(result.directory).curves
    assert {"loss/train", "loss/val", "quality/accuracy"} <= set(curves)
    assert result.sample.startswith("label ")


def test_it_resumes_to_the_last_bit(recipe, result, tmp_path, stop_in_step):
    stopped = recipe(runs_dir=tmp_path)
    stop_in_step(40)
    with pytest.raises(SystemExit):
        experiment.run(stopped)
    resumed = invoke("resume", stopped.run_dir)
    assert resumed.exit_code == 0, resumed.output
    assert load_run(stopped.run_dir).result["metrics"] == result.metrics


def test_its_maps_are_over_patches(result, tmp_path):
    run = load_run(result.directory)
    maps = run.attention("3")
    assert maps["self"].query_tokens[:5] == ["0,0", "0,1", "0,2", "0,3", "1,0"]
    assert maps.weights(layer=0, head=0).shape == (16, 16)
    assert maps.notes[0].startswith("image 3 is a ")
    with pytest.raises(DataError, match="the number of an image, below 360"):
        run.attention("the cat")
    export_run(result.directory, tmp_path / "digits.safetensors")
    exported = load_run(tmp_path / "digits.safetensors").model
    assert all(
        torch.equal(a, b)
        for a, b in zip(exported.parameters(), run.model.parameters(), strict=True)
    )
    drawn = invoke("attention", result.directory, "--text", 3, "--out", tmp_path / "a.svg")
    assert drawn.exit_code == 0, drawn.output


def test_the_commands_serve_it(result, recipe):
    measured = invoke("evaluate", result.directory)
    assert f"{result.metrics['accuracy']:.4f}" in measured.stdout
    refused = invoke("generate", result.directory)
    assert refused.exit_code == 2
    assert "does not generate text from a prompt; attnkit attention" in refused.stderr
    shown = invoke("show", DIGITS)
    assert "10, 4 (classes, and pixels of a patch)" in shown.stdout
    compared = invoke("compare", result.directory, "--metric", "accuracy")
    assert compared.exit_code == 0, compared.output


def test_auxiliary_losses_of_a_mechanism_join_its_own(recipe, tmp_path):
    keys = ["model.attention.name=disagreement", "logging.every_n_steps=20"]
    result = experiment.run(recipe(*keys, runs_dir=tmp_path))
    curves = load_run(result.directory).curves
    parts = [curve.values for name, curve in curves.items() if name.startswith("loss/train_")]
    assert len(parts) == 2
    assert sum(parts) == pytest.approx(curves["loss/train"].values, rel=1e-5)


@pytest.mark.slow
def test_variants_are_planned_and_matched(tmp_path):
    planned = invoke(
        "ablate", DIGITS, "model.attention.name=multi_head,linear", "--match", "parameters",
        "--dry-run", f"runs_dir={tmp_path}", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert planned.exit_code == 0, planned.output
    assert "linear" in planned.stdout


def test_what_does_not_fit_is_refused(recipe, monkeypatch, tmp_path):
    with pytest.raises(RecipeError, match=r"model.max_seq_len: an image has 64 patches; set it to"):
        recipe("data.patch=1")
    with pytest.raises(RecipeError, match=r"data.patch: must be 1, 2 or 4, got 3"):
        recipe("data.patch=3")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        experiment.run(recipe(runs_dir=tmp_path))


def test_the_example_may_be_copied_and_changed(tmp_path, recipe):
    for name in ("digits.py", "digits.yaml"):
        shutil.copy(FOLDER / name, tmp_path / name)
    assert load_recipe(tmp_path / "digits.yaml").plugins[0] == str(tmp_path / "digits.py")
