"""`attnkit senses`: what it prints, draws and writes, its curves, and what it refuses."""

import re

import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.recipe import recipe_from_dict
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run
from attnkit.understanding.senses import examine, usages_for

MOLES = "".join(
    f"mole\t{sense}\tThe {who} {verb} the mole.\n"
    for sense, who, verb in [
        ("animal", "fox", "chased"),
        ("animal", "owl", "heard"),
        ("unit", "chemist", "weighed"),
        ("unit", "tutor", "counted"),
    ]
)


def trained(folder, **changes):
    keys = {
        "name": "words",
        "task": "masked_language_modeling",
        "data": {"name": "ambiguous_words", "sentences": 60},
        "tokenizer": "word",
        "model": {
            "max_seq_len": 24,
            "dim": 16,
            "num_layers": 2,
            "mask": "document",
            "position": "rotary",
        },
        "trainer": {"max_steps": 4, "batch_size": 4, "accelerator": "cpu"},
        "masked_language_modeling": {"windows": 0},
        "callbacks": [{"name": "senses", "word": "mole", "num_moments": 3}],
        "runs_dir": str(folder),
    }
    return experiment.run(recipe_from_dict(keys | changes)).directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))


def call(*arguments):
    return CliRunner().invoke(app, ["senses", *map(str, arguments)])


def test_a_word_is_measured_by_layer_and_written_for_the_projector(run, tmp_path):
    ended = call(run, "--word", "mole", "--out", tmp_path / "mole.png")
    assert ended.exit_code == 0, ended.output
    assert "'mole' in 18 sentences" in ended.output
    assert "animal 6, skin 6, unit 6" in ended.output
    # The embedding is the same in every sentence: exactly chance, 5 of the other 17.
    assert re.search(r"0 \(embedding\) +0\.29 +\[0\.29, 0\.29\] +\+0\.00 +0\.29", ended.output)
    assert re.search(r"all layers +0\.29 +\[0\.29, 0\.29\]", ended.output)
    with Image.open(tmp_path / "mole.png") as picture:
        assert picture.width > 600
    config = text_format.Parse((run / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [each.tensor_name for each in config.embeddings] == [f"mole/layer{i}" for i in range(3)]
    for each in config.embeddings:
        vectors = (run / each.tensor_path).read_text().splitlines()
        metadata = (run / each.metadata_path).read_text().splitlines()
        assert metadata[0] == "sense\tsentence"
        assert len(vectors) == len(metadata) - 1 == 18
        assert len(vectors[0].split("\t")) == 16


def test_words_in_the_projector_stay_side_by_side(run):
    for word in ("mole", "bank", "mole"):
        assert call(run, "--word", word).exit_code == 0
    config = text_format.Parse((run / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert sorted({each.tensor_name for each in config.embeddings}) == sorted(
        f"{word}/layer{i}" for word in ("mole", "bank") for i in range(3)
    )


def test_without_a_word_all_are_measured(run):
    ended = call(run)
    assert ended.exit_code == 0, ended.output
    for word in ("bank", "mole", "trunk", "mean"):
        assert word in ended.output


def test_two_runs_are_compared_on_the_same_sentences(run, tmp_path):
    causal = trained(
        tmp_path, model={"max_seq_len": 24, "dim": 16, "num_layers": 1, "position": "rotary"}
    )
    ended = call(run, causal, "--word", "mole")
    assert ended.exit_code == 0, ended.output
    assert "difference" in ended.output


def test_the_curves_are_those_of_the_command(run):
    curves = load_run(run).curves
    found = [curves[f"senses/mole/layer{i}"] for i in range(3)]
    assert [list(curve.steps) for curve in found] == [[0, 1, 4]] * 3
    loaded = load_run(run)
    usages, origin = usages_for(loaded, None)
    layers = examine(loaded, "mole", usages, origin).layers
    for curve, layer in zip(found, layers, strict=True):
        assert curve.values[-1] == pytest.approx(layer.purity, abs=1e-6)


def test_own_sentences(run, tmp_path):
    (tmp_path / "moles.tsv").write_text(MOLES)
    ended = call(run, "--word", "mole", "--data", tmp_path / "moles.tsv")
    assert ended.exit_code == 0, ended.output
    assert "in 4 sentences" in ended.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--word", "whale"], "has no sentence about the word 'whale'"),
        (["--word", "mole", "--data", "none.tsv"], "--data none.tsv does not exist"),
        (["--out", "a.png"], "--out draws one word; add --word WORD"),
        (["--word", "mole", "--out", "a.gif"], "the name must end in"),
    ],
)
def test_bad_input_is_one_message(run, options, message):
    ended = call(run, *options)
    assert ended.exit_code == 2
    assert message in ended.output


def test_a_run_that_reads_no_text_is_refused(small_run_of_other_task):
    ended = call(small_run_of_other_task, "--word", "mole")
    assert ended.exit_code == 2
    assert "does not read a single text" in ended.output


@pytest.fixture(scope="module")
def small_run_of_other_task(tmp_path_factory):
    keys = {
        "name": "sorted",
        "task": "synthetic",
        "data": {"name": "sort"},
        "model": {"dim": 16, "num_layers": 1},
        "trainer": {"max_steps": 1, "batch_size": 4, "accelerator": "cpu"},
        "runs_dir": str(tmp_path_factory.mktemp("others")),
    }
    return experiment.run(recipe_from_dict(keys)).directory
