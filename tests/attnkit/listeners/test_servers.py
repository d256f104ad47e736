"""Weights & Biases and Comet in their offline modes, MLflow's file store: what a run leaves there,
and that a resumed run goes on under its id. Skipped where they are not installed.
"""

import importlib.util
import json
import zipfile

import numpy as np
import pytest

from attnkit.recipe import RecipeError
from attnkit.runs import experiment
from attnkit.training.task import Task

KEYS = ["trainer.max_steps=4", "logging.attention_maps=2", "logging.samples=1"]

pytestmark = pytest.mark.filterwarnings("default")  # their own, and of what they import


def missing(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"needs {package}, which is optional"
    )


@pytest.fixture
def crashed(small, monkeypatch):
    """`crashed(*keys)`: a recipe whose run crashed in step 4."""

    def run(*keys):
        plain = Task.on_before_backward

        def crash(self, loss):
            if self.trainer.fit_loop.epoch_loop.batch_idx == 3:
                raise ZeroDivisionError("a crash")
            plain(self, loss)

        recipe = small("checkpoint.every_n_steps=2", *KEYS, *keys)
        with monkeypatch.context() as patch:
            patch.setattr(Task, "on_before_backward", crash)
            with pytest.raises(ZeroDivisionError):
                experiment.run(recipe)
        return recipe

    return run


def failures(caplog):
    return [r.getMessage() for r in caplog.records if "the logger" in r.getMessage()]


@missing("mlflow")
def test_mlflow_gets_curves_texts_pictures_maps_and_the_status(crashed, caplog):
    recipe = crashed("logging.to=[{name: mlflow, experiment: heads, tags: {who: me}}]")
    result = experiment.run(recipe, resume="yes")
    assert not failures(caplog)
    from mlflow import MlflowClient

    client = MlflowClient((recipe.runs_dir / "mlruns").absolute().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("heads").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final/loss"] == pytest.approx(result.metrics["loss"])
    assert run.data.params["model.dim"] == str(recipe.model["dim"])
    assert {"who": "me", "seed": "0"}.items() <= run.data.tags.items()
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss/train")]
    assert set(steps) == {1, 2, 3, 4}
    folder = recipe.runs_dir / "mlruns" / run.info.experiment_id / run.info.run_id / "artifacts"
    pictures = list(folder.glob("images/attention_maps*.png"))
    assert len(pictures) == 2
    assert (folder / "setup/recipe" / "step-0.txt").read_text() == recipe.to_yaml()
    with np.load(folder / "attention/probe/self/step-4.npz") as numbers:
        assert numbers["L0"].sum(-1) == pytest.approx(1, abs=0.01)


@missing("mlflow")
def test_an_mlflow_server_that_is_gone_costs_the_run_nothing(small, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://127.0.0.1:9"
    recipe = small(*KEYS, f"logging.to=[tensorboard, {{name: mlflow, tracking_uri: {uri}}}]")
    assert experiment.run(recipe).record["status"] == "finished"
    (message,) = failures(caplog)
    assert message.startswith("the logger mlflow failed: ")


@missing("wandb")
def test_wandb_writes_offline_and_goes_on_under_its_id(crashed, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = crashed("logging.to=[{name: wandb, project: heads, tags: [a, b], offline: true}]")
    experiment.run(recipe, resume="yes")
    assert not failures(caplog)
    folder = recipe.run_dir / "wandb"
    sessions = sorted(folder.glob("offline-run-*"))
    assert len({session.name.rpartition("-")[2] for session in sessions}) == 1
    content = b"".join(file.read_bytes() for file in folder.rglob("offline-run-*/*.wandb"))
    for word in (b"heads", b"loss/train", b"final/loss", b"trainer/global_step", b"max_seq_len"):
        assert word in content
    assert b"attention_maps" in content
    pictures = [file for session in sessions for file in session.rglob("*.png")]
    assert len(pictures) == 2


@missing("comet_ml")
def test_comet_writes_an_archive(small, caplog):
    recipe = small(*KEYS, "logging.to=[{name: comet, project: heads, offline: true}]")
    result = experiment.run(recipe)
    assert not failures(caplog)
    (archive,) = (recipe.run_dir / "comet").glob("*.zip")
    with zipfile.ZipFile(archive) as file:
        lines = file.read("messages.json").decode().splitlines()
    metrics = [json.loads(line)["payload"].get("metric") for line in lines]
    found = {one["metricName"]: float(one["metricValue"]) for one in metrics if one}
    assert found["final/loss"] == pytest.approx(result.metrics["loss"])


def test_without_the_package_the_run_does_not_start(small, monkeypatch):
    monkeypatch.setattr("attnkit.recipe.listening._lacks", lambda package: True)
    for name, package in {"wandb": "wandb", "mlflow": "mlflow", "comet": "comet-ml"}.items():
        recipe = small(f"logging.to={name}")
        with pytest.raises(RecipeError, match=f"{name} is not installed: pip install {package}"):
            experiment.run(recipe)
        assert not recipe.run_dir.exists()
