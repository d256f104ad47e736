"""Masked language modeling: which tokens are missing, what is measured, what a run can do."""

import json
import logging
import math

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.data.pair_batch import IGNORED
from attnkit.errors import DataError
from attnkit.recipe import RecipeError
from attnkit.runs import experiment, report
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tasks.masked_language_modeling.masking import MASK, pseudo_perplexity
from attnkit.tasks.trained_run import export_run, load_run

TASK = "masked_language_modeling"


@pytest.fixture
def prepared(small):
    """`prepared("key=value")`: the data of a small recipe of the task."""

    def make(*overrides):
        data = experiment.build_data(small("model.mask=none", *overrides, task=TASK))
        data.prepare()
        return data

    return make


@pytest.fixture(scope="module")
def result(small_keys, tmp_path_factory):
    """A run of 200 steps; to be read, not to be changed."""
    from attnkit.recipe import recipe_from_dict

    keys = {
        **small_keys,
        "task": TASK,
        "runs_dir": str(tmp_path_factory.mktemp("masked")),
        "model": {**small_keys["model"], "mask": "none", "position": "rotary"},
        "logging": {"every_n_steps": 20, "attention_maps": 2, "samples": 1},
        "validation": {"every_n_steps": 50, "max_tokens": 2560},
        TASK: {"windows": 2, "share": 0.2},
    }
    return experiment.run(
        recipe_from_dict(
            keys, ["trainer.max_steps=200", "trainer.batch_size=24", "optimizer.lr=0.02"]
        )
    )


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# Gaps


def test_gaps_are_what_berts_are(prepared):
    """Of each window 5 of 32 tokens; 80 % of them masked, 10 % random, 10 % as they were."""
    data = prepared("model.max_seq_len=32", "trainer.batch_size=64")
    mask_id = data.tokenizer.vocab_size
    assert data.vocab_sizes == (mask_id + 1,)
    masked = kept = total = 0
    for step in range(10):
        batch, text = data.train_batch(step), super(type(data), data).train_batches(0, 10)[step]
        asked = batch.targets != IGNORED
        assert asked.sum(dim=1).tolist() == [5] * 64
        assert torch.equal(batch.tokens[~asked], text.tokens[~asked])
        assert torch.equal(batch.targets[asked], text.tokens[asked])
        masked += int((batch.tokens[asked] == mask_id).sum())
        kept += int((batch.tokens[asked] == text.tokens[asked]).sum())
        total += int(asked.sum())
    assert masked / total == pytest.approx(0.8, abs=0.03)
    assert kept / total == pytest.approx(0.1, abs=0.03)  # with a few random ones that hit


def test_gaps_depend_on_seed_and_step_alone(prepared):
    whole = prepared().train_batches(0, 4)
    later = prepared().train_batches(3, 4)
    assert torch.equal(whole[3].tokens, later[0].tokens)
    assert not torch.equal(whole[3].tokens, prepared("seed=1").train_batches(0, 4)[3].tokens)
    halves = [prepared().train_batches(0, 4, rank, 2)[3] for rank in (0, 1)]
    assert torch.equal(torch.cat([half.tokens for half in halves]), whole[3].tokens)
    assert torch.equal(torch.cat([half.targets for half in halves]), whole[3].targets)


def test_all_runs_guess_the_same_validation_tokens(prepared):
    small, large = (
        prepared(f"trainer.batch_size={size}", "seed=7").val_batches(None) for size in (3, 8)
    )
    joined = [
        torch.cat([batches[i].targets for i in range(len(batches))]) for batches in (small, large)
    ]
    assert torch.equal(*joined)


# Loss and metrics


def test_the_loss_is_that_of_the_missing_tokens(small, prepared):
    data = prepared()
    recipe = small("model.mask=none", task=TASK)
    task = experiment.build_task(recipe, experiment.build_model(recipe, *data.vocab_sizes), data)
    batch = data.train_batch(0)
    logits, asked = task.model(batch.tokens), batch.targets != IGNORED
    expected = F.cross_entropy(logits[asked], batch.targets[asked])
    torch.testing.assert_close(task.losses(batch)["cross_entropy"], expected)
    measured = task.measure(batch)
    torch.testing.assert_close(measured["loss"], expected)
    right = (logits[asked].argmax(-1) == batch.targets[asked]).float().mean()
    torch.testing.assert_close(measured["accuracy"], right)
    assert task.num_targets(batch) == int(asked.sum())
    assert task.num_tokens(batch) == 8 * 16


def test_the_pseudo_perplexity_masks_each_token_by_itself(result):
    run = load_run(result.directory)
    data = run.recipe.definition.build_data(run.recipe)
    data.prepare()
    losses = []
    for text in data.val_text(32)[0].tokens:
        for place in range(16):
            masked = text.clone()
            masked[place] = data.masking.mask_id
            losses.append(F.cross_entropy(run.model(masked[None])[0, place], text[place]).detach())
    expected = math.exp(float(torch.stack(losses).mean()))
    assert len(losses) == 32
    found = pseudo_perplexity(
        run.model, data.val_text(32), data.masking.mask_id, torch.device("cpu"), rows=5
    )
    assert found == pytest.approx(expected, rel=1e-5)
    assert result.metrics["pseudo_perplexity"] == pytest.approx(expected, rel=1e-4)


def test_it_learns_and_tells_what(result, read):
    assert result.metrics["accuracy"] > 0.35  # a space, always, is right less than half as often
    assert "loss_is_language_modeling" not in result.record
    assert result.record["sees_both_sides"]
    report.show_result(result)
    shown = read()
    (line,) = (line for line in shown.splitlines() if "accuracy of missing tokens" in line)
    assert f"{result.metrics['accuracy']:.2%}" in line
    assert "pseudo-perplexity" in shown
    assert f"--text '{result.example}'" in shown
    assert MASK in result.example
    read_line, model_line, text_line = result.sample.split("\n")[:3]
    assert read_line.startswith("read ")
    assert f"[{MASK}]" in read_line
    assert model_line.startswith("model ")
    assert MASK not in text_line


def test_a_mask_that_hides_one_side_is_told(small, caplog):
    with caplog.at_level(logging.WARNING):
        result = experiment.run(small("trainer.max_steps=1", f"{TASK}.windows=0", task=TASK))
    assert "a gap is predicted only from the text before it" in caplog.text
    assert "pseudo_perplexity" not in result.metrics
    assert not result.record["sees_both_sides"]


def test_it_resumes_to_the_last_bit(small, tmp_path, stop_in_step):
    keys = ["model.mask=none", "model.dropout=0.2", "trainer.max_steps=8", f"{TASK}.windows=1"]
    whole = experiment.run(small(*keys, f"runs_dir={tmp_path / 'whole'}", task=TASK))
    recipe = small(*keys, task=TASK)
    stop_in_step(4)
    with pytest.raises(SystemExit):
        experiment.run(recipe)
    assert experiment.run(recipe, resume="yes").metrics == whole.metrics


# A trained run


def test_a_trained_run_fills_gaps_and_shows_its_guesses(result, tmp_path):
    run = load_run(result.directory)
    text = f"the {MASK}at s{MASK}es"
    filled = run.fill(text)
    assert len(filled) == len("the cat sees")
    assert filled.startswith("the ")
    maps = run.attention(text)
    assert maps["self"].query_tokens[4] == MASK
    for note, place in zip(maps.notes, (4, 9), strict=True):
        assert note.startswith(f"{MASK} at token {place}: ")
    assert maps.weights(layer=0, head=0).shape == (12, 12)
    assert (maps.weights(layer=0, head=0) > 0).all()  # both sides
    with pytest.raises(DataError, match="there is no gap in this text"):
        run.fill("the cat")
    export_run(result.directory, tmp_path / "masked.safetensors")
    assert load_run(tmp_path / "masked.safetensors").fill(text) == filled


def test_the_commands_ask_the_task(result):
    refused = invoke("generate", result.directory)
    assert refused.exit_code == 2
    (line,) = refused.stderr.strip().splitlines()
    assert f"a run of the task {TASK} does not generate text from a prompt; attnkit att" in line
    measured = invoke("evaluate", result.directory)
    assert measured.exit_code == 0, measured.output
    assert "accuracy of missing tokens" in measured.stdout
    assert invoke("evaluate", result.directory, "--length", 8).exit_code == 2
    assert (
        "is evaluated on its own validation split"
        in invoke("evaluate", result.directory, "--data", "x").stderr
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{TASK}.share=0"], "share: must be greater than 0"),
        ([f"{TASK}.masked=0.95"], r"random: must be at most 0.05: masked 0.95 is a"),
    ],
)
def test_a_bad_recipe_is_refused(small, overrides, message):
    with pytest.raises(RecipeError, match=message):
        small(*overrides, task=TASK)


def test_the_result_is_written(result):
    record = json.loads((result.directory / "result.json").read_text())
    assert record["task"] == TASK
    assert record["metrics"] == result.metrics
    assert load_run(result.directory).curves["quality/accuracy"].steps[-1] == 200
    with pytest.raises(RunDirectoryError, match="does not generate text"):
        load_run(result.directory).generate("a")
