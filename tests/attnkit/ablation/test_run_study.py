"""A study from its recipe to its last trial, and every way in which it is run again."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.run_study import prepare_study, run_study
from attnkit.ablation.tables import markdown
from attnkit.ablation.timing import Timing
from attnkit.ablation.trial import Trial
from attnkit.ablation.tuning import candidates
from attnkit.cli.main import app
from attnkit.recipe import RecipeError, load_recipe
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tensorboard.scalars import read_scalars

TWINS = {"one": {}, "two": {}}


def result(directory):
    return json.loads((directory / "result.json").read_text())


def plan_file(folder):
    return json.loads((folder / "ablation.json").read_text())


def test_a_study_leaves_its_plan_and_paired_runs(load, launcher):
    """Two names for one thing: the same seed sees the same batches, so their numbers are equal.
    The same command again does what is missing, and no more.
    """
    recipe = load(variants=TWINS, seeds=[4, 9])
    folder, failures = run_study(recipe)
    assert failures == []
    assert launcher.started == ["one/seed4", "two/seed4", "one/seed9", "two/seed9"]
    environment = json.loads((folder / "one/seed4/environment.json").read_text())
    assert environment["neighbours"] == 0.0  # of this launcher
    losses = {key: result(folder / key)["metrics"]["loss"] for key in launcher.started}
    assert losses["one/seed4"] == losses["two/seed4"] != losses["one/seed9"]
    plan = plan_file(folder)
    assert plan["version"] == 1
    assert (plan["name"], plan["base"], plan["seeds"]) == ("study", "one", [4, 9])
    assert (plan["metric"], plan["lower_is_better"]) == ("loss", True)
    assert plan["variants"] == TWINS
    assert plan["match"] is plan["budget"] is None
    assert "ablation" not in load_recipe(folder / "one/seed4/recipe.yaml").to_dict()
    seeds = [read_scalars(folder / f"one/seed{seed}")["loss/val"].values for seed in (4, 9)]
    mean = read_scalars(folder / "mean/one")["loss/val"].values
    assert mean == pytest.approx(np.mean(seeds, axis=0))
    (folder / "two/seed9/result.json").unlink()
    launcher.started.clear()
    assert run_study(recipe) == (folder, [])
    assert launcher.started == ["two/seed9"]
    assert result(folder / "two/seed9")["metrics"]["loss"] == losses["two/seed9"]


def test_a_study_may_grow(load, launcher):
    run_study(load(variants={"one": {}}))
    made, _ = prepare_study(load(variants={"one": {}, "wide": {"model.dim": 32}}, seeds=2))
    missing = [trial.key for trial in made.trials() if not trial.is_finished]
    assert missing == ["wide/seed0", "one/seed1", "wide/seed1"]
    made.write()
    folder = made.directory
    assert plan_file(folder)["seeds"] == [0, 1]


def test_a_study_with_names_of_an_earlier_version_continues(load, launcher):
    """Until names were shortened, this variant was called `optimizer.lr-0.02`."""
    grid = {"optimizer.lr": [0.02]}
    folder, _ = run_study(load(variants={"optimizer.lr-0.02": {"optimizer.lr": 0.02}}))
    again = load(vary=grid, seeds=2)
    assert run_study(again) == (folder, [])
    assert launcher.started == ["optimizer.lr-0.02/seed0", "optimizer.lr-0.02/seed1"]


@pytest.mark.parametrize(
    ("ablation", "override", "words"),
    [
        ({"variants": {"one": {"model.dim": 32}}}, [], "variant one: {} -> {'model.dim': 32}"),
        ({"variants": {"other": {}}}, [], "variant one: {} -> nothing"),
        ({"variants": {"one": {}}, "seeds": [1]}, [], r"seeds: \[0\] -> \[1\]"),
        ({"variants": {"one": {}}, "budget": {"steps": 4}}, [], "budget: None -> {'steps': 4}"),
        ({"variants": {"one": {}}}, ["optimizer.lr=0.5"], "optimizer.lr: 0.01 -> 0.5"),
        ({"variants": {"one": {}}}, ["trainer.max_steps=9"], "trainer.max_steps: 6 -> 9"),
    ],
)
def test_another_study_in_its_folder_is_refused(ablation, override, words, load, launcher):
    prepare_study(load(variants={"one": {}}))[0].write()
    with pytest.raises(RunDirectoryError, match=f"contains another study: .*{words}.*name=NAME"):
        run_study(load(**ablation).with_overrides(*override))
    assert launcher.started == []


def test_what_decides_nothing_may_change(load, launcher):
    folder, _ = run_study(load(variants={"one": {}}))
    again = load(variants={"one": {}}, workers=7, metric="perplexity").with_overrides(
        "logging.every_n_steps=2"
    )
    assert run_study(again) == (folder, [])
    assert launcher.started == ["one/seed0"]


def test_a_damaged_plan_is_told(load, launcher):
    folder, _ = run_study(load(variants={"one": {}}))
    (folder / "ablation.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"ablation\.json is damaged; remove it"):
        run_study(load(variants={"one": {}}))


def test_a_run_that_is_none_of_the_studys_is_refused(load, launcher, study):
    from attnkit.runs import experiment

    recipe = load(variants={"one": {}, "two": {}}, seeds=1)
    other = recipe.with_overrides("~ablation", "variant=two", "optimizer.lr=0.3")
    experiment.run(other)
    with pytest.raises(
        RunDirectoryError,
        match=r"contains a run that is not this study's: .*0\.3 -> 0\.01",
    ):
        run_study(recipe)
    assert launcher.started == []
    assert not (recipe.runs_dir / "study/ablation.json").exists()


def test_a_run_made_by_hand_counts(load, launcher, study):
    """`attnkit run RECIPE key=value` writes where the grid does, so it need not be run again."""
    from attnkit.runs import experiment

    experiment.run(load_recipe(study(), ["optimizer.lr=0.02"]))
    run_study(load(vary={"optimizer.lr": [0.02, 0.03]}))
    assert launcher.started == ["lr=0.03/seed0"]


def test_a_failure_is_told_and_takes_no_other_down(load, launcher):
    """The same command does it again."""
    variants = {"one": {}, "wild": {"optimizer.lr": 1e38, "trainer.gradient_clip": None}}
    recipe = load(variants=variants)
    folder, (failure,) = run_study(recipe)
    assert (folder / "one/seed0/result.json").is_file()
    assert failure.key == "wild/seed0"
    assert failure.code == 3
    assert "diverged (code 3)" in str(failure)
    assert "trainer.on_nan=skip" in str(failure)  # the last lines, which say what to do
    launcher.started.clear()
    _, again = run_study(recipe)
    assert launcher.started == ["wild/seed0"]
    assert [each.key for each in again] == ["wild/seed0"]


def test_a_run_that_is_still_under_way_is_waited_for(load, launcher):
    """A process that an earlier launch left behind holds the lock of its run."""
    recipe = load(variants=TWINS)
    directory = recipe.runs_dir / "study/one/seed0"
    other = recipe.runs_dir / "study/two/seed0/result.json"
    code = f"""
import time
from pathlib import Path
from attnkit.tensorboard.scalars import read_scalars
from attnkit.storage.run_directory import in_use
with in_use(Path({str(directory)!r})):
    print("held", flush=True)
    while not Path({str(other)!r}).exists():
        time.sleep(0.02)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert run_study(recipe)[1] == []
    assert launcher.started == ["two/seed0", "one/seed0"]


def test_one_launch_at_a_time(load, launcher):
    recipe = load(variants=TWINS)
    folder = recipe.runs_dir / "study"
    code = f"""
from pathlib import Path
from attnkit.tensorboard.scalars import read_scalars
from attnkit.storage.run_directory import in_use
with in_use(Path({str(folder)!r})):
    print("held", flush=True)
    input()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RunDirectoryError, match="another process"):
            run_study(recipe)
        holder.communicate(b"\n")
    assert launcher.started == []


def test_a_budget_of_seconds_is_measured_once(load, launcher, monkeypatch):
    """The steps that fit are part of the study from then on, so that it can be resumed."""
    measured = []

    def measure(recipes, launcher, place, limit):
        measured.extend(recipes)
        return {name: Timing(start=1.0, step=0.5, final=1.0) for name in recipes}

    monkeypatch.setattr("attnkit.ablation.run_study.measure", measure)
    recipe = load(variants={"one": {}}, budget={"seconds": 4.0})
    folder, failures = run_study(recipe)
    assert failures == []
    assert result(folder / "one/seed0")["steps"] == 8
    assert load_recipe(folder / "one/seed0/recipe.yaml").trainer.max_time == 4.0
    run_study(load(variants=TWINS | {"one": {}}, budget={"seconds": 4.0}))
    assert measured == ["one", "two"]
    assert plan_file(folder)["step_seconds"] == {"one": 0.5, "two": 0.5}


# Tuning


def test_every_variant_is_tuned_by_the_same_candidates(load, launcher):
    """On one half of the validation split, in runs apart, with a seed that the study does not
    have; the numbers are those of the other half.
    """
    recipe = load(
        variants={"one": {}, "wild": {"optimizer.weight_decay": 1e38}},
        tune={"optimizer.lr": [0.01, 1e37, 1e38]},
        seeds=[1],
    )
    folder, failures = run_study(recipe)
    # A candidate that diverges is merely a bad one; a variant that has no other is left out.
    assert [str(failure) for failure in failures] == ["wild has no candidate with a loss"]
    assert len(launcher.started) == 2 * 3 + 1
    apart = recipe.runs_dir / "study.tuning"
    assert sorted(path.name for path in apart.glob("*/seed*")) == ["seed2"] * 6
    assert plan_file(folder)["tuned"] == {"one": {"optimizer.lr": 0.01}}
    assert plan_file(folder)["edges"] == {"one": "smallest"}
    assert "not tuned: the best candidate is at an end" in markdown(compare_runs([folder]))
    assert not (folder / "wild").exists()
    tuned = load_recipe(folder / "one/seed1/recipe.yaml")
    assert tuned.optimizer.options["lr"] == 0.01
    candidate = load_recipe(apart / "one,lr=0.01/seed2/recipe.yaml")
    assert (candidate.validation.part, tuned.validation.part) == ("first_half", "second_half")
    assert result(folder / "one/seed1")["validation_part"] == "second_half"
    assert plan_file(folder)["validation_part"] == "second_half"
    made, _ = prepare_study(recipe)
    assert {each.variant for each in candidates(made)} == {"wild"}
    assert made.edges == {"one": "smallest"}


def test_candidates_may_be_drawn(load, study):
    recipe = load(variants=TWINS, tune={"optimizer.lr": "log:1e-3..1e-1"}, draws=3)
    made, _ = prepare_study(recipe)
    rates = [candidate.trial.recipe.optimizer.options["lr"] for candidate in candidates(made)]
    assert rates[:3] == rates[3:]  # the same for every variant
    assert len({rate for rate in rates if 1e-3 <= rate <= 1e-1}) == 3
    assert made.describe()["drawn"] == {
        "ranges": {"optimizer.lr": "log:1e-3..1e-1"},
        "draws": 3,
        "draw_seed": 0,
    }


@pytest.mark.parametrize(
    ("ablation", "override", "words"),
    [
        ({"tune": {"optimizer.lr": 0.1}}, [], "ablation.tune.optimizer.lr: expected a list"),
        ({"tune": {"optimizer.rl": [1, 2]}}, [], "optimizer.rl: unknown key"),
        ({"tune": {"seed": [1, 2]}}, [], "the same for all variants"),
        ({"tune": {"optimizer.lr": [1e-3, 0.001]}}, [], "twice"),
        ({"tune": {"optimizer.lr": [1, 2]}}, ["validation.part=first_half"], "remove validation.p"),
    ],
)
def test_what_cannot_be_tuned_is_refused(ablation, override, words, load):
    recipe = load(**ablation).with_overrides(*override)
    with pytest.raises(RecipeError, match=words):
        prepare_study(recipe)
    assert not recipe.runs_dir.exists()


def test_a_trial_trains_plugins_that_break_a_law_if_it_is_told_to(load):
    trial = Trial.of(load().with_overrides("variant=one"), 0)
    assert "--no-check" in trial.job(check=False).arguments
    assert "--no-check" not in trial.job().arguments


def test_the_command_tells_its_trials_to(study, launcher):
    ended = CliRunner().invoke(app, ["ablate", str(study(variants={"one": {}})), "--no-check"])
    assert ended.exit_code == 0, ended.output
    assert launcher.unchecked == ["one/seed0"]


def test_a_trial_says_how_far_it_is(load):
    trial = Trial.of(load().with_overrides("variant=one"), 3)
    assert trial.progress() == ""
    trial.log.parent.mkdir(parents=True)
    trial.log.write_text("study/one  3/6  loss 1.0  0:00:09 left\nnoise\n")
    assert trial.progress() == "3/6  loss 1.0  0:00:09 left"
    assert trial.last_lines(1) == ["noise"]
