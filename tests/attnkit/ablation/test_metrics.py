"""More than the last number: metrics of curves, several metrics, tidy tables."""

import csv
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.estimates import holm
from attnkit.ablation.tables import grid
from attnkit.cli.main import app
from attnkit.storage.run_directory import RunDirectoryError

CURVE = {0: 4.0, 10: 3.0, 40: 1.0, 50: 2.0}


@pytest.fixture
def folder(make_run):
    """Two variants of two seeds; `fast` falls sooner and further."""
    costs = {"steps": 50, "tokens": 500, "training_flops_per_token": 6, "seconds": 100.0}
    for seed in range(2):
        make_run("base", seed, 2.0, curve=CURVE, metrics={"accuracy": 0.5}, **costs)
        steps = {0: 4.0, 5 + seed: 2.0, 50: 0.5 + seed / 10}
        make_run("fast", seed, 0.5 + seed / 10, curve=steps, metrics={"accuracy": 0.9}, **costs)
    return make_run.root / "small"


@pytest.mark.parametrize(
    ("metric", "base", "lower"),
    [
        ("loss/train", 3.0, True),  # the training loss of these runs is one higher
        ("last:loss", 2.0, True),
        ("best:loss", 1.0, True),
        ("best:loss/train", 2.0, True),
        ("area:loss", np.trapezoid(list(CURVE.values()), list(CURVE)) / 50, True),
        ("steps_to:loss:3.5", 5.0, True),
        ("steps_to:loss/val:2.0", 25.0, True),
        ("steps_to:loss:9", 0.0, True),
        ("tokens_to:loss:2.0", 250.0, True),
        ("flops_to:loss:2.0", 1500.0, True),
        ("seconds_to:loss:2.0", 50.0, True),
    ],
)
def test_a_metric_is_taken_from_a_curve(folder, metric, base, lower):
    found = compare_runs(str(folder), metric=metric)
    assert found.metric == metric
    assert found.lower_is_better is lower
    assert list(found.rows[0].values.values()) == [pytest.approx(base)] * 2


def test_a_curve_that_should_rise(make_run):
    for variant, last in (("base", 0.5), ("better", 0.75)):
        for seed in range(2):
            points = {0: 0.0, 10: last + seed / 100}
            make_run(variant, seed, curve=points, tag="quality/accuracy")
    study = make_run.root / "small"
    assert not compare_runs(study, metric="best:accuracy").lower_is_better
    reached = compare_runs(study, metric="steps_to:accuracy:0.25")
    assert reached.lower_is_better  # fewer steps are better
    assert reached.rows[0].values[0] == pytest.approx(5.0)
    assert reached.rows[1].values[0] == pytest.approx(10 / 3)


def test_what_some_seeds_do_not_reach_has_no_verdict(folder):
    found = compare_runs(folder, metric="steps_to:loss:0.55", base="fast")
    assert [row.variant for row in found.rows] == ["fast"]
    reasons = {run.directory.parent.name: run.reason for run in found.left_out}
    assert reasons == {
        "base": "its loss does not reach 0.55",
        "fast": "its loss does not reach 0.55",
    }


def test_a_verdict_needs_all_seeds_to_reach_the_value(make_run):
    for seed in range(3):
        make_run("base", seed, curve={0: 4.0, 10: 1.0 + seed / 100})
        make_run("some", seed, curve={0: 4.0, 2: 3.0 if seed else 1.0, 10: 3.0})
        make_run("all", seed, curve={0: 4.0, 5: 1.0 + seed / 100})
    found = {
        row.variant: row for row in compare_runs(make_run.root, metric="steps_to:loss:2.0").rows
    }
    assert found["some"].no_verdict == "not reached by all"
    assert found["some"].verdict is None
    assert found["all"].verdict == "better"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("steps_to:loss", "expected steps_to:CURVE:X with a number X"),
        ("steps_to:loss:soon", "expected steps_to:CURVE:X with a number X"),
        ("median:loss", r"unknown form \(known: area:CURVE"),
        ("area:", "unknown form"),
        ("best:accuracy", "no run has it:\n.*it has no curve accuracy"),
        ("steps_to:loss:0.1", "no run has it:\n.*its loss does not reach 0.1"),
        ("los", "no run has it; did you mean `loss`"),
        (["loss", "loss"], "loss is given twice"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(folder, metric, words):
    with pytest.raises(RunDirectoryError, match=words):
        compare_runs([folder], metric=metric)


def test_several_metrics_have_one_correction(make_run):
    rng = np.random.default_rng(0)
    for seed in range(6):
        noise = rng.normal(size=4) / 100
        make_run("base", seed, 1.0 + noise[0], metrics={"accuracy": 0.5 + noise[1]})
        make_run("good", seed, 0.98 + noise[2], metrics={"accuracy": 0.9 + noise[3]})
    study = make_run.root / "small"
    found = compare_runs(study, metric=["loss", "accuracy"])
    (other,) = found.others
    assert (found.metric, other.metric, other.lower_is_better) == ("loss", "accuracy", False)
    alone = [compare_runs(study, metric=name).rows[1] for name in ("loss", "accuracy")]
    both = [found.rows[1], other.rows[1]]
    assert [row.p_holm for row in both] == pytest.approx(holm([row.p_holm for row in alone]))
    assert found.num_verdicts == other.num_verdicts == 2
    assert other.rows[1].verdict == "better"
    table = grid(found)
    assert table.columns[:8] == [
        "variant", "loss", "seeds", "difference to base", "verdict", "accuracy", "difference",
        "verdict",
    ]  # fmt: skip
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[1][7] == "better"
    assert any("Holm's correction for 2 comparisons" in note for note in table.notes)


def test_tidy_frames(folder):
    pd = pytest.importorskip("pandas")
    found = compare_runs(folder, metric=["loss", "steps_to:loss:2.5"])
    frames = found.to_pandas()
    runs = frames.runs.set_index(["variant", "seed"])
    assert len(runs) == 4
    assert runs.loc[("fast", 1), "loss"] == 0.6
    assert runs.loc[("base", 0), "steps_to:loss:2.5"] == pytest.approx(17.5)
    assert runs["tokens"].tolist() == [500] * 4
    curves = frames.curves.query("variant == 'base' and seed == 0 and tag == 'loss/val'")
    assert dict(zip(curves["step"], curves["value"], strict=True)) == CURVE
    means = frames.variants.query("metric == 'loss'").set_index("variant")["mean"]
    assert means.to_dict() == {"base": 2.0, "fast": pytest.approx(0.55)}
    assert isinstance(frames.variants, pd.DataFrame)


def test_the_command_writes_tidy_files(folder, tmp_path):
    command = ["compare", str(folder), "--metric", "loss", "--metric", "area:loss"]
    out = ["--to-pandas", str(tmp_path / "tidy")]
    ended = CliRunner().invoke(app, [*command, *out])
    assert ended.exit_code == 0, ended.output
    assert "area:loss" in ended.output
    with (tmp_path / "tidy/variants.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["metric"], row["variant"]) for row in rows] == [
        ("loss", "base"), ("loss", "fast"), ("area:loss", "base"), ("area:loss", "fast")
    ]  # fmt: skip
    assert math.isclose(float(rows[0]["mean"]), 2.0)
    again = CliRunner().invoke(app, [*command, *out])
    assert again.exit_code == 2
    assert "runs.csv exists; choose another folder, or add --overwrite" in again.output
