"""Successive halving: who is stopped, what the others end with, and what a halved study says."""

import itertools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from attnkit.ablation.compare import compare_runs, judged
from attnkit.ablation.comparison import Comparison, Row
from attnkit.ablation.estimates import LEVEL, paired_difference, t_estimate
from attnkit.ablation.halving import rung_steps, share_of_steps, survivors
from attnkit.ablation.page.studies import Studies
from attnkit.ablation.run_study import prepare_study, run_study
from attnkit.ablation.stored_run import StoppedVariant
from attnkit.ablation.tables import comma_separated, grid
from attnkit.ablation.tidy import tidy_rows
from attnkit.recipe import RecipeError, load_recipe
from attnkit.recipe.sections import HalvingOptions
from attnkit.runs import experiment
from attnkit.storage.run_directory import PausedError, RunDirectoryError
from attnkit.tensorboard.scalars import read_scalars

RATES = {"base": 0.001, "good": 0.02, "bad": 0.0001, "fair": 0.01}
VARIANTS = {name: {"optimizer.lr": rate} for name, rate in RATES.items()}
STEPS = ["trainer.max_steps=8", "validation.every_n_steps=2"]
THREE = {"rungs": 3, "keep": 0.5}


def plan_file(folder):
    return json.loads((folder / "ablation.json").read_text())


def left_by(directory):
    result = json.loads((directory / "result.json").read_text())
    curves = {
        tag: list(zip(points.steps.tolist(), points.values.tolist(), strict=True))
        for tag, points in read_scalars(directory).items()
        if not tag.startswith("speed/")
    }
    return result["metrics"], result["steps"], curves


def test_survivors_end_as_without_halving(load, launcher):
    """To the last bit of every logged number; also one that was killed on its way to the end."""
    three = {name: VARIANTS[name] for name in ("base", "good", "bad")}
    recipe = load(variants=three, halving={"rungs": 2, "keep": 0.5}).with_overrides(*STEPS)
    good = recipe.with_overrides("~ablation", "variant=good", "optimizer.lr=0.02")
    with pytest.raises(PausedError, match="paused after step 5; train the rest with: attnkit re"):
        experiment.run(good, until=5)
    folder, failures = run_study(recipe)
    assert failures == []
    assert launcher.started == ["base/seed0", "bad/seed0", "base/seed0", "good/seed0"]
    assert plan_file(folder)["stopped"] == {"bad": {"rung": 1, "step": 4}}
    assert not (folder / "bad/seed0/result.json").exists()
    assert read_scalars(folder / "bad/seed0")["loss/val"].steps[-1] == 4
    whole = experiment.run(good.with_overrides("name=whole"))
    assert left_by(folder / "good/seed0") == left_by(whole.directory)
    launcher.started.clear()
    assert run_study(recipe) == (folder, [])
    assert launcher.started == []


@pytest.mark.slow
def test_a_halved_study_survives_a_kill(load, study, launcher):
    """With real processes and two seeds; without halving the same study then trains the rest."""
    options = {"variants": VARIANTS, "seeds": 2, "halving": THREE}
    words = [*STEPS, "ablation.workers=1", "ablation.launcher=forked"]
    recipe = load(**options).with_overrides(*words)
    command = [sys.executable, "-m", "attnkit", "ablate", str(study(**options)), *words]
    folder = recipe.runs_dir / "study"
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 300
        while not ((folder / "ablation.json").is_file() and plan_file(folder)["stopped"]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    folder, failures = run_study(recipe)
    assert failures == []
    assert len(launcher.started) <= 10  # none of the first rung
    stopped = {"bad": {"rung": 1, "step": 2}, "fair": {"rung": 2, "step": 4}}
    assert plan_file(folder)["stopped"] == stopped
    ended = {path.parts[-3] for path in folder.glob("*/seed*/result.json")}
    assert ended == {"base", "good"}
    run_study(recipe.with_overrides("~ablation.halving"))
    assert plan_file(folder)["stopped"] == {}
    whole, _ = run_study(recipe.with_overrides("~ablation.halving", "name=whole"))
    for name, seed in itertools.product(VARIANTS, (0, 1)):
        run = f"{name}/seed{seed}"
        assert left_by(folder / run) == left_by(whole / run)


@pytest.mark.parametrize(
    ("ablation", "override", "words"),
    [
        ({"halving": {"rungs": 1}}, [], r"ablation\.halving\.rungs: must be at least 2, got 1"),
        ({"halving": {"keep": 0}}, [], r"ablation\.halving\.keep: must be greater than 0"),
        ({"halving": {"keep": 1}}, [], r"ablation\.halving\.keep: must be less than 1, got 1"),
        ({"halving": THREE, "variants": {"one": {}}}, [], "no variant besides the base, so none"),
        ({"halving": THREE, "variants": {"a": {}, "b": {}}}, [], "one variant besides the base"),
        ({"halving": THREE}, [], "too few steps for 3 rungs: they would end near steps 2, 3 of 6"),
        ({"halving": THREE, "budget": {"seconds": 9}}, [], "these runs end by the clock"),
        ({"halving": THREE}, ["trainer.max_time=9"], "these runs end by the clock"),
        ({"halving": THREE}, ["logging.to=[]", *STEPS], "add tensorboard to logging.to"),
    ],
)
def test_what_cannot_be_halved_is_refused(ablation, override, words, study):
    file = study(**{"variants": VARIANTS, **ablation})
    with pytest.raises(RecipeError, match=words) as refused:
        prepare_study(load_recipe(file, override))
    assert len(refused.value.problems) == 1
    assert "halving" in refused.value.problems[0].key


def test_rungs_are_validations(small):
    recipe = small("trainer.max_steps=1000", "validation.every_n_steps=30")
    assert rung_steps(recipe, HalvingOptions(rungs=4, keep=0.5)) == [120, 240, 510]
    assert share_of_steps(8, HalvingOptions(rungs=3, keep=0.5)) == pytest.approx(
        (8 * 0.25 + 4 * 0.25 + 2 * 0.5) / 8
    )


def test_the_best_share_of_the_means_goes_on_and_the_base_always():
    values = {"a": 3.0, "base": 9.0, "b": 1.0, "c": 2.0, "lost": 0.0}
    seeds = {name: {0: mean + 5, 1: mean - 5} for name, mean in values.items()}
    del seeds["lost"][1]
    for keep, kept in ((0.5, ["base", "b", "c"]), (0.25, ["base", "b"]), (0.01, ["base", "b"])):
        options = HalvingOptions(keep=keep)
        found = survivors(seeds, "base", options, seeds=[0, 1], lower_is_better=True)
        assert found == kept
    found = survivors(seeds, "base", options, seeds=[0, 1], lower_is_better=False)
    assert found == ["a", "base"]


def test_what_was_stopped_is_not_decided(halved_study):
    """It has a row, its curve and a note, and counts in the correction, but no verdict."""
    found = compare_runs(halved_study)
    assert [row.variant for row in found.rows] == ["base", "good", "same"]
    assert found.left_out == []
    assert found.num_verdicts == 4
    p = {row.variant: row.difference.p for row in found.rows if row.difference}
    assert found.rows[1].p_holm == pytest.approx(4 * p["good"])
    table = grid(found)
    assert [words[:5] for words in table.rows[3:]] == [
        ["bad", "-", "3", "-", "not decided"],
        ["worse", "-", "3", "-", "not decided"],
    ]
    notes = "\n".join(table.notes)
    assert "stopped 1 variant at rung 1 of 3 (step 5): bad. Not decided; counted in" in notes
    assert "stopped 1 variant at rung 2 of 3 (step 7): worse." in notes
    assert "for 4 comparisons" in notes
    variants = {each["variant"]: each for each in found.to_dict()["variants"]}
    assert variants["bad"]["stopped_at_step"] == 5
    assert variants["bad"]["verdict"] is None
    assert variants["bad"]["no_verdict"] == "not decided"
    assert comma_separated(found).count("not decided") == 2
    two = compare_runs(halved_study, metric=["loss", "loss/train"])
    assert two.num_verdicts == 8
    assert len(grid(two).rows[3]) == len(grid(two).columns)
    tidy = tidy_rows(found)
    points = [row for row in tidy["curves"] if row["variant"] == "bad" and row["tag"] == "loss/val"]
    assert [row["step"] for row in points] == [0, 5] * 3
    assert {len(row) for row in tidy["runs"]} == {len(tidy["runs"][0])}
    with pytest.raises(RunDirectoryError, match="--base bad: halving stopped it"):
        compare_runs(halved_study, base="bad")


def test_the_page_shows_what_was_stopped(halved_study):
    studies = Studies({halved_study.parent: ""})
    view = studies.view("small", None, None)
    assert view["complete"]
    states = {each["name"]: {run["state"] for run in each["runs"]} for each in view["variants"]}
    assert states["bad"] == {"halved"}
    assert view["variants"][3]["runs"][0]["text"] == "at step 5"
    row = view["table"]["rows"]["bad"]
    assert (row["verdict"], row["mean"]) == ("not decided", None)
    curves = json.loads(studies.curves("small", None, None, False))
    assert [curve["variant"] for curve in curves["seeds"]] == [3, 3, 3, 4, 4, 4]
    assert studies.list()[0]["counts"]["halved"] == 6


def test_who_was_stopped_and_then_trained_to_the_end_is_compared(halved_study):
    for seed in range(2):
        (halved_study / f"bad/seed{seed}/result.json").write_bytes(
            (halved_study / f"good/seed{seed}/result.json").read_bytes()
        )
    found = compare_runs(
        halved_study
    )  # one seed is still missing: a variant's seeds belong together
    assert [each.variant for each in found.stopped] == ["bad", "worse"]
    assert "bad" not in [row.variant for row in found.rows]
    (halved_study / "bad/seed2/result.json").write_bytes(
        (halved_study / "good/seed2/result.json").read_bytes()
    )
    found = compare_runs(halved_study)
    assert [each.variant for each in found.stopped] == ["worse"]
    assert {row.variant: row.verdict for row in found.rows}["bad"] is not None


def test_halving_makes_no_further_false_verdict():
    """Equal variants whose losses at the rungs resemble the final ones, judged by the code that
    judges studies. Each verdict of a halved study is one of the whole study; without counting what
    was stopped there would be more false ones than the level allows.
    """
    generator = np.random.default_rng(0)
    names = ["base", *(f"v{i}" for i in range(8))]
    options = HalvingOptions(rungs=3, keep=0.5)
    studies, seeds = 500, range(5)

    def verdicts(final, kept, counted):
        rows = []
        for name in kept:
            values = {seed: float(final[name][seed]) for seed in seeds}
            pairs = [values[seed] - float(final["base"][seed]) for seed in seeds]
            is_base = name == "base"
            difference = None if is_base else paired_difference(pairs)
            rows.append(
                Row(name, is_base, (), values, t_estimate(list(values.values())), difference)
            )
        lost = [StoppedVariant(name, 1, 3, 1, {}) for name in names if name not in kept]
        found = Comparison("", "loss", True, "base", rows, stopped=lost if counted else ())
        (found,) = judged([found])
        return {row.variant for row in found.rows if row.verdict in ("better", "worse")}

    false = {"whole": 0, "halved": 0, "not counted": 0}
    for _ in range(studies):
        final = dict(zip(names, generator.normal(size=(len(names), len(seeds))), strict=True))
        kept = names
        for noise in (0.7, 0.4):
            rung = {
                name: dict(enumerate(final[name] + noise * generator.normal(size=len(seeds))))
                for name in kept
            }
            kept = survivors(rung, "base", options, seeds=seeds, lower_is_better=True)
        whole, halved_ = verdicts(final, names, True), verdicts(final, kept, True)
        assert halved_ <= whole
        false["whole"] += bool(whole)
        false["halved"] += bool(halved_)
        false["not counted"] += bool(verdicts(final, kept, False))
    rates = {name: count / studies for name, count in false.items()}
    assert rates["halved"] <= rates["whole"] <= LEVEL + 0.02
    assert rates["not counted"] > rates["halved"] + 0.02, rates
