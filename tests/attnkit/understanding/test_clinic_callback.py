"""The clinic while a model trains, is killed, and goes on."""

import json

import pytest

from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run
from attnkit.tensorboard.clinic_history import FILE, formed
from attnkit.understanding.clinic_table import history_in

CLINIC = "callbacks=[{name: head_clinic, every_n_steps: 2, max_tokens: 64}]"


def history(directory):
    return json.loads((directory / FILE).read_text())


def test_scores_of_every_moment_are_kept(small):
    result = experiment.run(small(CLINIC))
    found = history(result.directory)
    assert found["steps"] == [0, 2, 4, 6]
    assert sorted(found["heads"]) == ["L0H0", "L0H1", "L1H0", "L1H1"]
    scores = found["heads"]["L1H1"]
    assert all(value is not None for value in scores["induction"])
    assert scores["knock_out_mean"][:3] == [None] * 3
    assert scores["knock_out_mean"][3] is not None
    curves = load_run(result.directory).curves
    assert curves["heads/induction"].steps.tolist() == [0, 2, 4, 6]
    highest = max(scores["induction"][-1] for scores in found["heads"].values())
    assert curves["heads/induction"].values[-1] == pytest.approx(highest, rel=1e-6)
    tags = [tag for tag in curves if tag.startswith("heads/")]
    assert len(tags) <= 12


def test_training_is_the_same_with_it(small):
    without = experiment.run(small("model.dropout=0.1", "name=without"))
    beside = experiment.run(small("model.dropout=0.1", CLINIC, "name=beside"))
    assert beside.metrics == without.metrics


def test_a_run_that_was_stopped_ends_with_the_same_history(small, stop_in_step):
    whole = experiment.run(small(CLINIC, "checkpoint.every_n_steps=1", "name=whole"))
    recipe = small(CLINIC, "checkpoint.every_n_steps=1", "name=stopped")
    stop_in_step(3)
    with pytest.raises(SystemExit):
        experiment.run(recipe)
    done = experiment.run(recipe, resume="yes")
    assert done.metrics == whole.metrics
    assert history(done.directory) == history(whole.directory)


@pytest.mark.slow
def test_it_works_with_a_compiled_model_and_with_a_translation(small, graphs):
    result = experiment.run(small(CLINIC, "trainer.compile=true", "model.num_layers=1"))
    assert graphs
    assert history(result.directory)["steps"] == [0, 2, 4, 6]
    result = experiment.run(small(CLINIC, task="translation"))
    assert "alignment_error" in history(result.directory)["heads"]["decoder.cross L0H0"]


def test_a_phase_change_is_told(tmp_path):
    found = {
        "steps": [0, 10, 20, 30],
        "heads": {
            "L0H0": {"previous": [0.1, 0.5, 0.6, 0.9], "induction": [0.0, 0.0, 0.0, 0.0]},
            "L1H1": {"previous": [0.1, 0.1, 0.5, 0.6], "induction": [0.5, 0.0, 0.1, 0.8]},
        },
    }
    assert list(map(str, formed(found))) == [
        "previous: formed by step 10 (at step 0: 0.10), first in L0H0",
        "induction: formed by step 30 (at step 20: 0.10), first in L1H1",
    ]
    assert list(history_in(tmp_path)) == []
    (tmp_path / FILE).write_text(json.dumps(found))
    assert len(list(history_in(tmp_path))) == 2
