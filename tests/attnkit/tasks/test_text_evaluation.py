"""`attnkit evaluate` on runs that read text, or learnt a synthetic task."""

import math
import re

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.errors import DataError
from attnkit.recipe import recipe_from_dict
from attnkit.runs import experiment
from attnkit.tasks.language_modeling.evaluation import measure
from attnkit.tasks.synthetic import evaluation as synthetic
from attnkit.tasks.trained_run import export_run, load_run


def evaluated(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_the_validation_text_has_the_loss_of_the_result(small_run):
    (found,) = measure(load_run(small_run.directory), [], [])
    assert found.by_length[16] == pytest.approx(small_run.metrics, rel=1e-5)
    assert found.is_honest
    said = evaluated(small_run.directory)
    assert said.exit_code == 0, said.output
    for form, metric in ("{:.4f}", "loss"), ("{:.4f}", "bits_per_byte"), ("{:.3f}", "perplexity"):
        assert form.format(found.by_length[16][metric]) in said.stdout


def test_predictions_that_saw_their_answer_do_not_count(small):
    result = experiment.run(small("model.mask={name: prefix, length: 6}"))
    (found,) = measure(load_run(result.directory), ["val"], [])
    assert found.by_length[16] == pytest.approx(result.metrics, rel=1e-5)
    assert found.is_honest
    everything = experiment.run(small("model.mask=none", "variant=all"))
    (found,) = measure(load_run(everything.directory), [], [])
    assert not found.is_honest


def test_any_text_at_any_length_that_the_positions_allow(small, tmp_path):
    """Window by window, with the model alone; 40 tokens are more than the 16 of training."""
    run = load_run(experiment.run(small("model.position=rotary")).directory)
    text = "the cat sees a dog.\nQ " * 12
    (tmp_path / "other.txt").write_text(text)
    (found,) = measure(run, [str(tmp_path / "other.txt")], [10, 40])
    ids = torch.tensor(run.tokenizer.encode(text).ids)
    unknown = int((ids == run.tokenizer.unknown_id).sum())
    assert unknown == 12
    assert found.unknown_share == unknown / len(ids)
    for length in (10, 40):
        losses = [
            F.cross_entropy(run.model(ids[None, s : s + length])[0], ids[s + 1 : s + length + 1])
            for s in range(0, (len(ids) - 1) // length * length, length)
        ]
        loss = float(torch.stack(losses).detach().mean())
        bits = loss / math.log(2) * len(ids) + unknown * 2 * math.log2(257)
        values = found.by_length[length]
        assert values["loss"] == pytest.approx(loss, rel=1e-5)
        assert values["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        assert values["bits_per_byte"] == pytest.approx(bits / len(text), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--length", 17], "--length 17: the run's positions were learnt for 16 tokens"),
        (["--data", "none.txt"], r"--data none.txt: there is no such file .* \(there are: train"),
        (["--beam", 2], "--beam does not apply to a run of the task language_modeling"),
        (
            ["--weights", "averaged"],
            "has no averaged weights: its task or its recipe does not average them",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_message(small_run, options, message):
    said = evaluated(small_run.directory, *options)
    assert said.exit_code == 2
    assert said.stdout == ""
    assert re.search(message, " ".join(said.stderr.split()))


def test_a_short_text_names_the_length_that_it_allows(small_run, tmp_path):
    (tmp_path / "short.txt").write_text("the cat")
    run = load_run(small_run.directory)
    with pytest.raises(DataError, match=r"has 7 tokens.* needs 17.*use --length 6"):
        measure(run, [str(tmp_path / "short.txt")], [])
    (found,) = measure(run, [str(tmp_path / "short.txt")], [6])
    assert list(found.by_length) == [6]


def test_an_exported_file_is_measured_as_its_run(small_run, tmp_path):
    export_run(small_run.directory, tmp_path / "small.safetensors")
    (found,) = measure(load_run(tmp_path / "small.safetensors"), [], [])
    assert found.by_length[16]["loss"] == pytest.approx(small_run.metrics["loss"], rel=1e-5)
    assert evaluated(tmp_path / "small.safetensors").exit_code == 0


def test_a_synthetic_task_at_its_lengths_and_at_others(tmp_path):
    keys = {
        "name": "small",
        "task": "synthetic",
        "runs_dir": str(tmp_path),
        "data": {
            "name": "reverse", "length": 8, "vocab_size": 8, "test_lengths": [6], "num_eval": 50,
        },
        "model": {"max_seq_len": 8, "dim": 16, "num_layers": 1, "position": "alibi"},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "trainer": {"max_steps": 20, "batch_size": 16, "precision": 32, "accelerator": "cpu"},
        "logging": {"attention_maps": 0, "samples": 0},
    }  # fmt: skip
    result = experiment.run(recipe_from_dict(keys))
    run = load_run(result.directory)
    (found,) = synthetic.measure(run, [], [])
    own = {name: result.metrics[name] for name in ("loss", "accuracy", "exact_match")}
    assert found.by_length[8] == pytest.approx(own, rel=1e-5)
    assert found.by_length[6]["accuracy"] == pytest.approx(result.metrics["accuracy_length_6"])
    (longer,) = synthetic.measure(run, ["val"], [12])
    assert 0 <= longer.by_length[12]["accuracy"] <= 1
    with pytest.raises(DataError, match="--length 7 does not fit the task: it must be even"):
        synthetic.measure(run, [], [7])
    with pytest.raises(DataError, match=r"--data a.txt: a synthetic task has val and test"):
        synthetic.measure(run, ["a.txt"], [])
