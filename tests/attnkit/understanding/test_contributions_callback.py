"""The contributions of the parts while a model trains, is stopped, and goes on."""

import lightning as L
import numpy as np
import pytest
import torch

from attnkit.errors import DataError, DivergedError
from attnkit.recipe import RecipeError
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run
from attnkit.tensorboard.contributions import FILE, read_history
from attnkit.understanding.explanation import Explanation

EVERY = "callbacks=[{name: contributions, every_n_steps: 2, num_tokens: 8, text: the dog sees}]"


def history(directory):
    return read_history(directory / FILE)


def test_the_last_moment_is_what_explain_says_of_the_trained_run(small):
    result = experiment.run(small(EVERY))
    found = history(result.directory)
    assert found["steps"] == [0, 2, 4, 6]
    run = load_run(result.directory, weights="last")
    expected = Explanation.of(run, "the dog sees"[:8]).page_data()
    last = found["moments"][-1]
    assert last["tokens"] == list("the dog ")
    assert [part["name"] for part in last["parts"]] == [part["name"] for part in expected["parts"]]
    effects = np.array(last["next"]["effects"])
    np.testing.assert_allclose(effects, expected["next"]["effects"], atol=2e-4)
    before = np.array(found["moments"][0]["next"]["effects"])
    assert before.shape[1] == 8
    assert not np.allclose(before.sum(axis=0), effects.sum(axis=0), atol=1e-3)


def test_training_is_the_same_with_it(small):
    without = experiment.run(small("model.dropout=0.1", "name=without"))
    beside = experiment.run(small("model.dropout=0.1", EVERY, "name=beside"))
    assert beside.metrics == without.metrics


def test_a_run_that_was_stopped_ends_with_the_same_history(small, stop_in_step):
    whole = experiment.run(small(EVERY, "checkpoint.every_n_steps=1", "name=whole"))
    recipe = small(EVERY, "checkpoint.every_n_steps=1", "name=stopped")
    stop_in_step(3)
    with pytest.raises(SystemExit):
        experiment.run(recipe)
    done = experiment.run(recipe, resume="yes")
    assert history(done.directory) == history(whole.directory)


def test_weights_that_are_not_finite_leave_the_earlier_moments(small, caplog):
    class Break(L.Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            if batch_idx == 3:
                with torch.no_grad():
                    task.model.head.weight.fill_(float("nan"))

    recipe = small(EVERY, "trainer.on_nan=skip")
    with pytest.raises(DivergedError):
        experiment.run(recipe, callbacks=[Break()])
    assert "Contributions failed at step" in caplog.text
    assert "are not finite" in caplog.text
    assert history(recipe.run_dir)["steps"] == [0, 2]


@pytest.mark.parametrize("task", ["translation", "masked_language_modeling"])
def test_every_task_that_predicts_tokens_has_them(small, task):
    result = experiment.run(small("callbacks=[contributions]", task=task))
    found = history(result.directory)
    assert found["steps"][0] == 0
    assert any(part["kind"] == "head" for part in found["moments"][-1]["parts"])


@pytest.mark.slow
def test_it_works_with_a_compiled_model(small, graphs):
    result = experiment.run(small(EVERY, "trainer.compile=true", "model.num_layers=1"))
    assert graphs
    assert history(result.directory)["steps"] == [0, 2, 4, 6]


def test_no_tokens_are_refused(small):
    with pytest.raises(RecipeError, match="num_tokens must be at least 1, got 0"):
        experiment.run(small("callbacks=[{name: contributions, num_tokens: 0}]"))


def test_a_model_without_layers_is_refused(small):
    with pytest.raises(DataError, match="contributions needs a model with layers"):
        experiment.run(small("callbacks=[contributions]", "model.num_layers=0"))
