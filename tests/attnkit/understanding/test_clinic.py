"""The clinic, on heads whose roles are known."""

import json
import math
import shutil

import pytest
import torch
from typer.testing import CliRunner

from attnkit.attention.maps import attention_maps
from attnkit.cli.main import app
from attnkit.dashboard.head_statistics import statistics
from attnkit.listeners.map_records import records_of
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import recipe_from_dict
from attnkit.runs import experiment
from attnkit.tensorboard.clinic_history import FILE, read_history
from attnkit.understanding.clinic import examine
from attnkit.understanding.head_scores import PATTERNS, data_scores, repeated_scores


def task_with(recipe, make=None):
    """A task of a recipe, prepared; with a model of one's own."""
    data = experiment.build_data(recipe)
    data.prepare()
    model = experiment.build_model(recipe, *data.vocab_sizes) if make is None else make(data)
    return experiment.build_task(recipe, model, data)


@pytest.fixture(scope="module")
def circuit_task(induction_circuit, small_keys, short_samples):
    recipe = recipe_from_dict(small_keys)
    return task_with(recipe, lambda data: induction_circuit(*data.vocab_sizes))


@pytest.fixture(scope="module")
def examined(circuit_task):
    return {head.name: head for head in examine(circuit_task).heads}


def test_a_circuit_made_by_hand_is_recognised(examined):
    assert examined["L0H0"].scores["previous"] == pytest.approx(1, abs=1e-5)
    assert examined["L1H0"].scores["induction"] == pytest.approx(1, abs=1e-5)
    assert {name: head.word for name, head in examined.items()} == {
        "L0H0": "previous",
        "L0H1": "even",
        "L1H0": "induction",
        "L1H1": "even",
    }
    assert examined["L1H0"].scores["copying"] == pytest.approx(1, abs=1e-5)
    assert examined["L1H0"].evidence.startswith("induction 1.00, knock-out ")
    assert examined["L0H0"].scores["largest_score"] == pytest.approx(60, abs=1e-3)


def test_a_head_that_does_nothing_is_not_missed(examined):
    for name, head in examined.items():
        lost = [head.scores["knock_out_zero"], head.scores["knock_out_mean"]]
        if name.endswith("H1"):
            assert lost == [0, 0]
        else:
            assert all(abs(value) > 1e-3 for value in lost)


def test_even_weights_are_even(examined):
    scores = examined["L0H1"].scores
    assert scores["evenness"] == pytest.approx(1, abs=1e-5)
    rows = range(2, 17)  # keys of the queries that see two or more
    assert scores["entropy"] == pytest.approx(sum(map(math.log, rows)) / 15, abs=1e-5)
    assert scores["first"] == pytest.approx(sum(1 / n for n in rows) / 15, abs=1e-5)
    assert scores["distance"] == pytest.approx(sum((n - 1) / 2 for n in rows) / 15, abs=1e-5)


def test_a_fresh_model_has_no_patterns(small):
    found = examine(task_with(small()), replacements=())
    assert found.loss is None
    for head in found.heads:
        assert all(head.scores[name] < 0.25 for name in PATTERNS)
        assert head.lost is None


def test_the_numbers_are_those_of_the_attention_page(small):
    model = task_with(small()).model
    tokens = torch.arange(12)[None] % 7
    (record,) = records_of(attention_maps(model, tokens), ["x"] * 12, ["x"] * 12, example="a")
    theirs = statistics(record)
    for layer, one in enumerate(attention_maps(model, tokens)):
        ours = data_scores(one)
        for name in ("entropy", "distance", "first"):
            assert ours[name].tolist() == pytest.approx(theirs[name][layer], abs=2e-5)


@pytest.mark.parametrize(
    ("name", "offset"), [("current", 0), ("previous", 1), ("duplicate", 6), ("induction", 5)]
)
def test_each_pattern_is_its_own(name, offset):
    weights = torch.zeros(1, 1, 12, 12)
    rows = torch.arange(12)
    weights[0, 0, rows, (rows - offset).clamp(min=0)] = 0.3  # rows need not sum to 1
    found = repeated_scores(weights, torch.ones(1, 1, 12, 12, dtype=torch.bool))
    assert {key: float(value) for key, value in found.items()} == {
        key: float(key == name) for key in PATTERNS
    }


@torch.no_grad()
def test_the_rise_of_the_loss_is_that_of_the_task(circuit_task):
    """Knocked out with zeros in its weights, the head costs as much."""
    found = examine(circuit_task, max_tokens=256, replacements=("zero",))
    batches = circuit_task.data.val_batches(256)
    losses = [circuit_task.measure(batches[i])["loss"] for i in range(len(batches))]
    assert found.loss == pytest.approx(float(sum(losses)) / len(losses), abs=1e-5)
    (head,) = [head for head in found.heads if head.name == "L1H0"]
    weight = circuit_task.model.layers[1].attention.output.weight
    kept = weight.detach().clone()
    weight.zero_()
    losses = [circuit_task.measure(batches[i])["loss"] for i in range(len(batches))]
    weight.copy_(kept)
    lost = float(sum(losses)) / len(losses) - found.loss
    assert head.scores["knock_out_zero"] == pytest.approx(lost, abs=1e-5)


def test_training_goes_on_as_it_was(small):
    task = task_with(small("model.dropout=0.5"))
    task.train()
    state = torch.get_rng_state()
    examine(task)
    assert task.training
    assert all(module.training for module in task.model.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "name", ["linear", "gated_delta_net", "mamba2", "delta_product", "sigmoid"]
)
def test_any_mechanism_has_scores_and_knock_outs(small, name):
    found = examine(task_with(small(f"model.attention.name={name}")), max_tokens=64)
    assert len(found.heads) == 8
    for head in found.heads:
        assert {"entropy", "induction", "knock_out_zero", "knock_out_mean"} <= head.scores.keys()
        assert all(map(math.isfinite, head.scores.values()))
    assert any(head.lost != 0 for head in found.heads)


def test_a_translation_has_three_kinds_of_heads(small):
    recipe = small(task="translation")
    found = examine(task_with(recipe))
    assert [head.name for head in found.heads if head.head == 0] == [
        "encoder.self L0H0",
        "decoder.self L0H0",
        "decoder.cross L0H0",
    ]
    cross = next(head for head in found.heads if head.site == "decoder.cross")
    assert {"diagonality", "alignment_error"} <= cross.scores.keys()
    assert "distance" not in cross.scores
    assert abs(cross.scores["diagonality"]) < 0.2  # nearly even weights
    assert 0 <= cross.scores["alignment_error"] <= 1


def test_a_diagonal_map_is_diagonal():
    cross = next(
        m
        for m in attention_maps(
            LanguageModel(5, dim=8, num_layers=1, attention={"name": "multi_head", "num_heads": 1}),
            torch.zeros(1, 6, dtype=torch.long),
        )
    )
    everywhere = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    diagonal = type(cross)(
        "cross", torch.eye(6)[None, None], everywhere, role="cross", rows="sum to 1"
    )
    assert float(data_scores(diagonal)["diagonality"]) == pytest.approx(1)
    even = type(cross)(
        "cross", torch.full((1, 1, 6, 6), 1 / 6), everywhere, role="cross", rows="sum to 1"
    )
    assert float(data_scores(even)["diagonality"]) == pytest.approx(0, abs=1e-6)
    assert float(data_scores(even)["effective_rank"]) == pytest.approx(1, abs=1e-4)
    assert float(data_scores(diagonal)["effective_rank"]) == pytest.approx(6, abs=1e-4)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def copied(small_run, tmp_path):
    """A run that trained without the callback, to be written to."""
    return shutil.copytree(small_run.directory, tmp_path / "run")


def test_the_command(copied, tmp_path):
    ended = call("clinic", copied, "--out", tmp_path / "heads.json")
    assert ended.exit_code == 0, ended.output
    assert "L1H1" in ended.stdout
    assert "rank  effective rank of its map" in ended.stdout
    assert "diag" not in ended.stdout, "a column of cross-attention alone"
    assert max(map(len, ended.stdout.splitlines()[:-1])) <= 80
    found = json.loads((tmp_path / "heads.json").read_text())
    assert [sorted(found)] == [["heads", "loss", "num_targets"]]
    lost = [head["scores"]["knock_out_mean"] for head in found["heads"]]
    assert lost == sorted(lost, reverse=True)
    again = call("clinic", copied, "--out", tmp_path / "heads.json")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "heads.json" in again.stderr


def test_the_command_keeps_its_scores_for_the_page(copied):
    """As the moment of the checkpoint, and no other moment changes."""
    file = copied / FILE
    told = f"stored as step 6 of {FILE}, for the Clinic view of the Attention page"
    ended = call("clinic", copied, "--tokens", 1)
    assert ended.stdout.splitlines()[-1] == told
    alone = read_history(file)
    assert alone["steps"] == [6]
    assert sorted(alone["heads"]) == ["L0H0", "L0H1", "L1H0", "L1H1"]
    (now,) = alone["heads"]["L0H0"]["previous"]

    for steps in ([0, 3, 9], [0, 3, 6, 9]):  # without the step, and with it
        at = [float(step) for step in steps]
        heads = {"L0H0": {"previous": at, "other": at}, "L7H7": {"previous": at}}
        file.write_text(json.dumps({"steps": steps, "heads": heads}))
        assert told in call("clinic", copied, "--tokens", 1).stdout
        found = read_history(file)
        assert found["steps"] == [0, 3, 6, 9]
        assert found["heads"]["L0H0"]["previous"] == [0, 3, now, 9]
        missing = 6 if 6 in steps else None
        assert found["heads"]["L0H0"]["other"] == [0, 3, missing, 9]
        assert found["heads"]["L7H7"]["previous"] == [0, 3, missing, 9]
        assert found["heads"]["L1H1"]["knock_out_mean"][:2] == [None, None]

    file.write_text("mine")
    damaged = call("clinic", copied, "--tokens", 1)
    assert file.read_text() == "mine"
    file.unlink()
    (copied / f"{FILE}.part").mkdir()  # stands where the file is written first
    blocked = call("clinic", copied, "--tokens", 1)
    assert not file.exists()
    for ended, why in ((damaged, f"{FILE} is damaged"), (blocked, f"cannot write {file}")):
        assert ended.exit_code == 0, ended.output
        assert "L1H1" in ended.stdout
        assert ended.stdout.count("note: not stored for the Clinic view") == 1
        assert why in ended.stdout.replace("\n", "")


def test_a_run_without_layers_has_no_heads(small):
    result = experiment.run(small("model.num_layers=0"))
    ended = call("clinic", result.directory)
    assert ended.exit_code == 2
    assert "this run has no layers, so it has no heads" in ended.stderr
