"""Runs of an earlier version: they load, go on, are shown and compared as if it had made them.

`tests/fixtures/old_runs` holds two run directories and what that version made of them. Absolute
paths in them begin with `FOLDER`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from attnkit.ablation.page.studies import Studies
from attnkit.cli.main import app
from attnkit.models.encoder_decoder import (
    CrossOptions,
    DecoderOptions,
    EncoderDecoder,
    EncoderOptions,
)
from attnkit.models.language_model import LanguageModel
from attnkit.recipe.stored import recipe_to_resume
from attnkit.registry import Spec
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run

FIXTURES = Path(__file__).parents[1] / "fixtures" / "old_runs"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
STARTS = json.loads((FIXTURES / "starts.json").read_text())


@pytest.fixture
def old_run(tmp_path):
    """`old_run("translation")`: the directory of a run, copied to a folder of its own."""

    def copy(name):
        home = tmp_path / "old"
        shutil.copytree(FIXTURES / name, home)
        directory = home / "runs" / name / "base" / "seed0"
        for file in [*directory.glob("*.yaml"), *directory.glob("*.json")]:
            file.write_text(file.read_text().replace("FOLDER", str(home)))
        return directory

    return copy


def numbers(state):
    """Of each tensor: its shape, a sum that depends on the order of its numbers, and their size."""
    found = {}
    for name, tensor in state.items():
        flat = tensor.double().flatten()
        waves = torch.arange(1, len(flat) + 1).double().cos()
        found[name] = [list(tensor.shape), float((flat * waves).sum()), float(flat.abs().sum())]
    return found


def assert_weights(state, expected, rel=1e-6):
    found = numbers(state)
    assert sorted(found) == sorted(expected)
    for name, (shape, *sums) in expected.items():
        assert found[name][0] == shape, name
        assert found[name][1:] == pytest.approx(sums, rel=rel, abs=rel), name


@pytest.mark.parametrize("name", EXPECTED)
def test_an_old_run_is_loaded_as_it_was(name, old_run):
    run, expected = load_run(old_run(name)), EXPECTED[name]
    assert [name for name, _ in run.model.named_parameters()] == expected["parameters"]
    assert_weights(run.model.state_dict(), expected["weights_after_4"])
    assert run.result["metrics"] == expected["metrics_after_4"]


@pytest.mark.parametrize("name", EXPECTED)
def test_an_old_run_goes_on_as_if_nothing_had_changed(name, old_run, tiny_samples):
    directory, expected = old_run(name), EXPECTED[name]
    recipe = recipe_to_resume(directory, ["trainer.max_steps=8"])
    result = experiment.run(recipe, directory=directory, resume="yes")
    for metric, value in expected["metrics_after_8"].items():
        assert result.metrics[metric] == pytest.approx(value, rel=1e-4), metric
    assert_weights(load_run(directory).model.state_dict(), expected["weights_after_8"], rel=1e-4)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_old_run_is_shown_and_compared(name, old_run, monkeypatch):
    directory = old_run(name)
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["show", str(directory / "recipe.yaml")])
    assert shown.exit_code == 0, shown.output
    (line,) = [row for row in shown.stdout.splitlines() if row.strip().startswith("mlp ")][:1]
    assert f" {mlp_parameters(name):,} " in line
    again = directory.parents[1] / "again" / "seed0"
    shutil.copytree(directory, again)
    compared = CliRunner().invoke(app, ["compare", str(directory.parents[1])])
    assert compared.exit_code == 0, compared.output
    assert "again" in compared.stdout
    studies = Studies({directory.parents[2]: ""})
    view, curves = (
        studies.view(name, None, None),
        json.loads(studies.curves(name, None, None, False)),
    )
    assert [row["words"][1] for row in view["table"]["rows"].values()] == [
        f"{loss_of(directory):.4f}"
    ] * 2
    assert [len(curve["mean"]) > 0 for curve in curves["curves"]] == [True, True]


def loss_of(directory):
    return json.loads((directory / "result.json").read_text())["metrics"]["loss"]


def mlp_parameters(name):
    shapes = [
        shape
        for parameter, (shape, *_) in EXPECTED[name]["weights_after_4"].items()
        if ".mlp." in parameter
    ]
    return sum(torch.Size(shape).numel() for shape in shapes)


@pytest.mark.parametrize("label", STARTS)
def test_equal_seeds_draw_what_they_drew(label):
    options, expected = STARTS[label]
    torch.manual_seed(0)
    if "translator" in options:
        spec = Spec(options["translator"])
        model = EncoderDecoder(
            7,
            dim=8,
            max_seq_len=8,
            encoder=EncoderOptions(num_layers=2, attention=spec),
            decoder=DecoderOptions(num_layers=2, attention=spec, position=Spec("learned")),
            cross=CrossOptions(attention=spec),
        )
    else:
        model = LanguageModel(7, max_seq_len=8, dim=8, num_layers=2, **options)
    assert_weights(model.state_dict(), expected)
