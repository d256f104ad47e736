"""Run directories made by the kit's own writers, without any training; and the recipe of a study
that is run.
"""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnkit import run_directory
from attnkit.ablation.launchers.base import Ended, Job, Launcher
from attnkit.cli.main import app
from attnkit.recipe import Recipe, load_recipe, recipe_from_dict
from attnkit.recipe.writing import to_yaml
from attnkit.tensorboard.logger import RunLogger


@pytest.fixture(scope="session")
def record(small_run):
    """What `result.json` holds of a run that was really trained."""
    return small_run.record


@pytest.fixture
def make_run(small_keys, record, tmp_path, monkeypatch):
    """`make_run("base", 0, loss=1.5)` leaves a finished run and returns its directory.

    Further keywords change its record (`parameters=...`); `metrics` adds to its metrics, `data`
    replaces what pins its data down, `curve` is step -> validation loss, `study` names the recipe.
    """

    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of files: seconds of waiting

    def make(
        variant, seed, loss=1.0, *, study="small", metrics=None, data=None, curve=None, **changed
    ) -> Path:
        keys = {**small_keys, "name": study, "variant": variant, "seed": seed}
        recipe = recipe_from_dict({**keys, "runs_dir": str(tmp_path / "runs")})
        directory = recipe.run_dir
        run_directory.claim(directory, overwrite=False)
        run_directory.write_text(directory / "recipe.yaml", recipe.to_yaml())
        environment = {**run_directory.environment(), "data": data or {"train": {"tokens": 100}}}
        run_directory.write_json(directory / "environment.json", environment)
        if curve:
            logger = RunLogger(directory, trial_id=variant)
            for step, value in curve.items():
                logger.log_metrics({"loss/val": value, "loss/train": value + 1}, step)
            logger.finalize("success")
            logger.close()
        result = {**copy.deepcopy(record), **changed}
        result["metrics"] |= {"loss": loss, **(metrics or {})}
        run_directory.write_json(directory / "result.json", result)
        return directory

    return make


@pytest.fixture
def finished_study(make_run, tmp_path):
    """Three variants of four seeds: one better, one the same up to noise; and its folder."""
    noise = [0.01, -0.02, 0.015, -0.005]
    for seed, n in enumerate(noise):
        make_run("base", seed, 1.0 + n, curve={0: 3.0, 5: 2.0 + n, 10: 1.0 + n})
        make_run("better", seed, 0.8 - n / 2, curve={0: 3.0, 5: 1.5, 10: 0.8 - n / 2})
        make_run("same", seed, 1.001 + noise[-seed], curve={0: 3.0, 10: 1.0})
    return tmp_path / "runs/small"


@pytest.fixture
def study(small_keys: dict, tmp_path: Path) -> Callable[..., Path]:
    """`study(vary={...})`: a recipe file with a section `ablation`, whose runs go to the test's own
    folder.
    """

    def make(**ablation: object) -> Path:
        keys = {**small_keys, "name": "study", "runs_dir": str(tmp_path / "runs")}
        file = tmp_path / "study.yaml"
        file.write_text(to_yaml({**keys, "ablation": ablation} if ablation else keys))
        return file

    return make


@pytest.fixture
def load(study: Callable[..., Path]) -> Callable[..., Recipe]:
    """`load(vary={...})`: the same, loaded."""

    def make(**ablation: object) -> Recipe:
        return load_recipe(study(**ablation))

    return make


class InProcess(Launcher):
    """Runs each job in this process: what a trial does, without four seconds of imports."""

    def __init__(self) -> None:
        super().__init__(1)
        self.waiting: list[Job] = []
        self.started: list[str] = []

    def start(self, jobs: Sequence[Job]) -> None:
        self.waiting.extend(jobs)

    def ended(self, seconds: float) -> list[Ended]:
        if not self.waiting:
            return []
        job = self.waiting.pop(0)
        self.started.append(job.key)
        assert job.arguments[:3] == ("-P", "-m", "attnkit")
        ended = CliRunner().invoke(app, list(job.arguments[3:]))
        job.log.write_text(ended.output)
        return [Ended(job.key, ended.exit_code)]

    def stop(self) -> None:
        self.waiting.clear()

    kill = close = stop

    def describe(self) -> str:
        return "here"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Takes the place of what a recipe names; `started` are the keys of the jobs, in order."""
    launcher = InProcess()
    monkeypatch.setattr("attnkit.ablation.conduct.build_launcher", lambda plan: launcher)
    return launcher
