"""Run directories made by the kit's own writers, without any training; and the recipe of a study
that is run.
"""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attnkit.listeners.event_file import EventFile
from attnkit.recipe import Recipe, load_recipe, recipe_from_dict
from attnkit.recipe.writing import to_yaml
from attnkit.runs.environment import current_environment
from attnkit.storage import run_directory


class RunMaker:
    """`make("base", 0, loss=1.5)` leaves a finished run and returns its directory.

    Further keywords change its record (`parameters=...`); `metrics` adds to its metrics, `data`
    replaces what pins its data down, `curve` is step -> validation loss, of which `tag` is another
    name, `study` names the recipe, `computed_by` the GPU or processor in its environment.
    """

    def __init__(self, recipe: str, record: dict, root: Path) -> None:
        self.recipe = recipe
        self.record = record
        self.root = root

    def __call__(
        self,
        variant,
        seed,
        loss=1.0,
        *,
        study="small",
        metrics=None,
        data=None,
        curve=None,
        tag="loss/val",
        computed_by=None,
        **more,
    ) -> Path:
        directory = self.root / study / variant / f"seed{seed}"
        run_directory.claim(directory, overwrite=False)
        recipe = self.recipe
        for key, value in (("name", study), ("variant", variant), ("seed", seed)):
            recipe = re.sub(rf"^{key}: .*$", f"{key}: {value}", recipe, flags=re.MULTILINE)
        run_directory.write_text(directory / "recipe.yaml", recipe)
        environment = {**current_environment(), "data": data or {"train": {"tokens": 100}}}
        if computed_by is not None:
            environment["device"] = computed_by
        run_directory.write_json(directory / "environment.json", environment)
        if curve:
            logger = EventFile(directory, trial_id=variant)
            for step, value in curve.items():
                logger.scalars({tag: value, "loss/train": value + 1}, step)
            logger.finish("success")
        result = {**copy.deepcopy(self.record), **more}
        result["metrics"] |= {"loss": loss, **(metrics or {})}
        run_directory.write_json(directory / "result.json", result)
        return directory


@pytest.fixture(scope="session")
def run_maker(small_keys, small_run):
    """`run_maker(root)`: a maker of runs below a folder, after one that was really trained."""
    recipe = recipe_from_dict(small_keys).to_yaml()
    return lambda root: RunMaker(recipe, small_run.record, root)


@pytest.fixture
def make_run(run_maker, tmp_path, monkeypatch):
    """Makes runs below the test's own folder; see `RunMaker`."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of files: seconds of waiting
    return run_maker(tmp_path / "runs")


@pytest.fixture(scope="session")
def study_of_the_session(run_maker, tmp_path_factory):
    """Three variants of four seeds: one better, one the same up to noise; to be read."""
    make = run_maker(tmp_path_factory.mktemp("study"))
    noise = [0.01, -0.02, 0.015, -0.005]
    for seed, n in enumerate(noise):
        make("base", seed, 1.0 + n, curve={0: 3.0, 5: 2.0 + n, 10: 1.0 + n})
        make("better", seed, 0.8 - n / 2, curve={0: 3.0, 5: 1.5, 10: 0.8 - n / 2})
        make("same", seed, 1.001 + noise[-seed], curve={0: 3.0, 10: 1.0})
    return make.root / "small"


@pytest.fixture
def finished_study(study_of_the_session, tmp_path):
    """A copy of it, to be changed; returns its folder."""
    return shutil.copytree(study_of_the_session, tmp_path / "runs/small")


@pytest.fixture
def halved_study(make_run):
    """A study of five variants and three seeds, two of which were stopped, without training."""
    study = make_run.root / "small"
    for seed in range(3):
        noise = 0.001 * seed
        for name, loss in (("base", 1.0), ("good", 0.8 + noise), ("same", 1.0 + noise)):
            make_run(name, seed, loss, curve={5: 2.0, 10: loss})
        for name, step in (("bad", 5), ("worse", 7)):
            directory = make_run(name, seed, 9.0, curve={0: 4.0, step: 3.0 + noise})
            (directory / "result.json").unlink()
    plan = {
        "version": 1,
        "name": "small",
        "base": "base",
        "variants": {name: {} for name in ("base", "good", "same", "bad", "worse")},
        "seeds": [0, 1, 2],
        "halving": {"rungs": 3, "keep": 0.5},
        "stopped": {"bad": {"rung": 1, "step": 5}, "worse": {"rung": 2, "step": 7}},
    }
    (study / "ablation.json").write_text(json.dumps(plan))
    return study


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
