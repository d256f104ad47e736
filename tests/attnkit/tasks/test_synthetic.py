"""A run of a synthetic task: what it measures, what it shows, what can be done with it."""

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.data.pair_batch import IGNORED
from attnkit.recipe import RecipeError, recipe_from_dict
from attnkit.runs import experiment, report
from attnkit.tasks.synthetic.task import side_by_side
from attnkit.tasks.trained_run import load_run
from attnkit.tensorboard.map_format import decode

KEYS = {
    "name": "small",
    "task": "synthetic",
    "data": {
        "name": "reverse",
        "length": 8,
        "vocab_size": 8,
        "test_lengths": [6, 10],
        "num_eval": 100,
    },
    "model": {
        "max_seq_len": 10,
        "dim": 32,
        "num_layers": 1,
        "attention": {"name": "multi_head", "num_heads": 2},
    },
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "cosine", "warmup_steps": 10},
    "trainer": {"max_steps": 60, "batch_size": 32, "precision": 32, "accelerator": "cpu"},
    "validation": {"every_n_steps": 20, "max_tokens": 400},
    "logging": {"every_n_steps": 10, "attention_maps": 2, "samples": 2},
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A finished run, to be read."""
    return experiment.run(
        recipe_from_dict({**KEYS, "runs_dir": str(tmp_path_factory.mktemp("synthetic"))})
    )


@pytest.fixture(scope="module")
def shown(result):
    everything = {"scalars": 0, "images": 0, "tensors": 0}
    return event_accumulator.EventAccumulator(str(result.directory), everything).Reload()


def asked(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def built(*overrides):
    recipe = recipe_from_dict(KEYS, overrides)
    data = experiment.build_data(recipe)
    return experiment.build_task(recipe, experiment.build_model(recipe, *data.vocab_sizes), data)


def test_a_tiny_model_learns_to_reverse_at_the_length_that_it_saw(result):
    metrics = result.metrics
    names = ["accuracy", "exact_match", "loss", "accuracy_length_6", "accuracy_length_10"]
    assert sorted(metrics) == sorted(names)
    assert metrics["accuracy"] >= 0.99
    assert metrics["exact_match"] >= 0.97
    assert metrics["loss"] < 0.1
    assert metrics["accuracy_length_6"] < 0.8  # its positions were learnt for 8 tokens
    written = json.loads((result.directory / "result.json").read_text())
    assert written["metrics"] == metrics
    assert written["task"] == "synthetic"


def test_the_final_numbers_are_those_of_the_test_sets(result):
    run = load_run(result.directory)
    data = experiment.build_data(run.recipe)
    right = {8: [], 6: [], 10: []}
    for batch in data.final_batches():
        said = run.model(batch.tokens).argmax(dim=-1)
        for i, row in enumerate(batch.targets):
            answers = [(t, int(a)) for t, a in enumerate(row) if a != IGNORED]
            right[len(row)].append([int(said[i, t]) == a for t, a in answers])
    assert [len(of) for of in right.values()] == [100, 100, 100]
    assert result.metrics["accuracy"] == pytest.approx(np.mean(right[8]))
    assert result.metrics["exact_match"] == pytest.approx(np.mean([all(r) for r in right[8]]))
    assert result.metrics["accuracy_length_6"] == pytest.approx(np.mean(right[6]))
    assert result.metrics["accuracy_length_10"] == pytest.approx(np.mean(right[10]))


def test_only_answers_count_in_the_loss():
    task = built()
    batch = task.data.train_batch(0)
    logits = task.model(batch.tokens).detach()
    lost = [
        -logits[i, t].log_softmax(-1)[answer]
        for i, row in enumerate(batch.targets)
        for t, answer in enumerate(row)
        if answer != IGNORED
    ]
    assert len(lost) == 32 * 4
    assert float(task.measure(batch)["loss"].detach()) == pytest.approx(
        float(sum(lost) / len(lost)), rel=1e-5
    )
    assert task.num_tokens(batch) == 32 * 8


def test_an_answer_is_nowhere_read(result):
    """The prediction is as good if the future is seen: there are no answers in it."""
    task = built("model.mask=none")
    tokens, targets = task.data.train_batch(0)
    places = targets != IGNORED
    assert set(tokens[places].tolist()) == {6, 7}  # the blank and the sign


def test_accuracy_rises_over_time_in_tensorboard(shown):
    curve = [(event.step, event.value) for event in shown.Scalars("quality/accuracy")]
    assert [step for step, _ in curve] == [20, 40, 60]
    assert curve[-1][1] >= 0.99
    tags = set(shown.Tags()["scalars"])
    assert tags >= {"loss/train", "loss/val", "quality/exact_match", "quality/final_accuracy"}
    assert "quality/final_accuracy_length_10" in tags


def test_samples_show_prompt_answer_and_model_side_by_side(shown, result):
    texts = [event.tensor_proto.string_val[0].decode() for event in shown.Tensors("samples")]
    assert len(texts) == 2
    first = result.sample.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in first] == ["prompt", "answer", "model"]
    prompt, answer, said = (line.split()[1:] for line in first)
    assert prompt[4:] == ["|", ".", ".", "."]
    assert answer == prompt[3::-1] == said
    assert first[1].index(answer[0]) == first[0].index("|")  # below the token that asks


def test_the_probe_is_a_whole_sequence_with_its_answers(shown):
    records = [
        decode(list(e.tensor_proto.string_val)) for e in shown.Tensors("attention/probe/self")
    ]
    assert len(records) == 2
    keys, queries = records[0].key_tokens, records[0].query_tokens
    assert list(keys[4:]) == ["|", ".", ".", "."]
    assert list(queries[:4]) == list(keys[:4])
    assert [query.split("→")[1] for query in queries[4:]] == list(keys[3::-1])


def test_a_probe_may_be_given():
    task = built()
    (probe,) = task.probes(32, "1 2 | .")
    assert probe.inputs[0].tolist() == [[1, 2, 7, 6]]
    with pytest.raises(Exception, match=r"'9' is not a token of this run's task.*0 1 2 3 4 5"):
        task.probes(32, "1 9 |")
    with pytest.raises(Exception, match=r"logging.probe has 11 tokens"):
        task.probes(32, "1 " * 11)


def test_columns_break_at_the_same_places():
    words = [f"w{i}" for i in range(40)]
    text = side_by_side({"prompt": words, "answer": [""] * 39 + ["a"]})
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["prompt", "prompt", "answer"]
    assert lines[2].index("a", 6) == lines[1].index("w39")
    assert max(map(len, lines)) <= 96


# Commands


def test_a_run_is_told_with_its_numbers(result, capsys):
    report.show_result(result)
    said = capsys.readouterr().out
    for words in ("accuracy of the answers", "accuracy at 10 tokens", "attnkit attention"):
        assert words in said


def test_its_maps_can_be_drawn(result, tmp_path):
    page = tmp_path / "map.html"
    ended = asked("attention", result.directory, "--text", "3 1 4 | . .", "--out", page)
    assert ended.exit_code == 0, ended.output
    assert '"3","1","4","|"' in page.read_text().replace(" ", "")
    ended = asked("attention", result.directory, "--text", "The cat", "--out", tmp_path / "b.html")
    assert ended.exit_code == 2
    assert "'The' is not a token of this run's task" in ended.output


def test_generate_says_what_to_do(result):
    ended = asked("generate", result.directory, "--prompt", "The ")
    assert ended.exit_code == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "task synthetic does not generate text from a prompt; attnkit attention" in line


def test_a_recipe_is_shown_with_its_own_vocabulary(tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(recipe_from_dict(KEYS).to_yaml())
    ended = asked("show", recipe)
    assert ended.exit_code == 0, ended.output
    assert "8 (of the task)" in ended.output


def test_an_exported_model_is_the_same(result, tmp_path):
    file = tmp_path / "model.safetensors"
    assert asked("export", result.directory, file).exit_code == 0
    tokens = torch.tensor([[1, 2, 7, 6]])
    exported, run = load_run(file), load_run(result.directory)
    assert torch.equal(exported.model(tokens), run.model(tokens))
    assert exported.tokenizer.encode("1 2 | .").ids == [1, 2, 7, 6]


# Bad recipes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.test_lengths=[16]"], "model.max_seq_len: 10 is less than the 16 tokens of"),
        (["data.length=12", "model.max_seq_len=11"], "set it to 12"),
        (["tokenizer=char"], "tokenizer: a synthetic task has its own vocabulary"),
        (["data=shakespeare"], "unknown synthetic task `shakespeare` .known: induction, multi_"),
        (["data.lenght=8"], "data.lenght: unknown key; did you mean `length`"),
        (["data.length=9"], "data.length: 9 does not fit: it must be even"),
        (["translation.beam=2"], "translation: belongs to `task: translation`"),
        (
            ["trainer.batch_tokens=10"],
            "belongs to `task: speech` or `task: translation`, and this is",
        ),
    ],
)
def test_a_bad_recipe_is_refused(overrides, message):
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict(KEYS, overrides)


def test_too_small_a_task_is_refused_before_anything_is_written(tmp_path):
    recipe = recipe_from_dict(
        {**KEYS, "runs_dir": str(tmp_path / "runs")}, ["data={name: parity, length: 2}"]
    )
    with pytest.raises(Exception, match="too few different sequences"):
        experiment.run(recipe)
    assert not (tmp_path / "runs").exists()
