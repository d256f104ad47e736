"""The runs `mean/<variant>`, and what TensorBoard's table shows of a study, beside another one."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.mean_runs import write_mean
from attnkit.listeners.listener import RunInfo
from attnkit.listeners.loggers import TensorBoard
from attnkit.tensorboard.scalars import read_scalars


def test_the_mean_run_is_the_mean_of_the_seeds(make_run):
    curves = [{0: 3.0, 10: 2.0, 20: 1.0}, {0: 3.5, 10: 2.5, 20: 0.5}, {0: 3.2, 20: 1.2}]
    for seed, curve in enumerate(curves):
        make_run("base", seed, curve=curve)
    study = make_run.root / "small"
    assert write_mean(study, "base")
    found = read_scalars(study / "mean/base")
    at = [0, 10, 20]
    values = np.array([np.interp(at, list(curve), list(curve.values())) for curve in curves])
    expected = {
        "loss/val": values.mean(axis=0),
        "range/loss_val_low": values.min(axis=0),
        "range/loss_val_high": values.max(axis=0),
        "loss/train": values.mean(axis=0) + 1,
    }
    for tag, numbers in expected.items():
        assert found[tag].steps.tolist() == at
        assert found[tag].values == pytest.approx(numbers)
    assert [row.variant for row in compare_runs([study]).rows] == ["base"]  # it is no variant


def test_the_page_of_custom_scalars_draws_mean_and_band(make_run):
    for seed in range(2):
        make_run("base", seed, curve={0: 3.0, 10: 1.0 + seed})
    study = make_run.root / "small"
    write_mean(study, "base")
    events = EventAccumulator(str(study / "mean/base"), {"tensors": 0}).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    (series,) = layout.category[0].chart[0].margin.series
    assert (series.value, series.lower, series.upper) == (
        "loss/val", "range/loss_val_low", "range/loss_val_high"
    )  # fmt: skip


def test_a_later_seed_replaces_the_mean(make_run):
    """In a TensorBoard that is open, and in one that is opened later."""
    study = make_run.root / "small"
    make_run("base", 0, curve={0: 3.0, 10: 1.0})
    assert not write_mean(study, "base")
    assert not (study / "mean").exists()
    make_run("base", 1, curve={0: 3.0, 10: 2.0})
    write_mean(study, "base")
    (place,) = (study / "mean").iterdir()
    shown = EventAccumulator(str(place), {"scalars": 0}).Reload()
    make_run("base", 2, curve={0: 3.0, 10: 6.0})
    write_mean(study, "base")
    for events in (shown.Reload(), EventAccumulator(str(place), {"scalars": 0}).Reload()):
        points = [(event.step, event.value) for event in events.Scalars("loss/val")]
        assert points == [(0, 3.0), (10, 3.0)]


def test_seeds_without_curves_have_no_mean(make_run):
    for seed in range(2):
        make_run("base", seed)
    assert not write_mean(make_run.root / "small", "base")


def test_the_table_of_hyperparameters_shows_what_a_study_varies(tmp_path):
    """A run of a study writes the varied keys alone; nulls are never written."""
    plan = {
        "varied": ["model.attention.name", "model.layers[1].mask"],
        "tuned": {"linear": {"optimizer.lr": 0.1}},
        "changed_to_match": {"linear": {"model.mlp_dim": 7}},
    }
    recipe = {
        "data": {"name": "text"},
        "optimizer": {"name": "adamw", "lr": 0.1},
        "model": {
            "dim": 8, "mlp_dim": 7, "layers": [1], "mlp": None, "attention": {"name": "linear"}
        },
    }  # fmt: skip

    def shown(name):
        directory = tmp_path / name / "linear/seed0"
        logger = TensorBoard().open(RunInfo(directory, name=name, variant="linear"))
        logger.begin(recipe)
        logger.scalars({"final/loss": 1.5, "final/accuracy": 0.5}, 20)
        logger.finish("success")
        events = EventAccumulator(str(directory)).Reload()
        (content,) = [
            events.SummaryMetadata(tag).plugin_data.content
            for tag in events.PluginTagToContent("hparams")
            if tag.endswith("session_start_info")
        ]
        start = metadata.parse_session_start_info_plugin_data(content)
        return start.group_name, sorted(start.hparams), events

    (tmp_path / "study").mkdir()
    (tmp_path / "study/ablation.json").write_text(json.dumps(plan))
    group, keys, events = shown("study")
    assert group == "study/linear"
    assert keys == ["model.attention.name", "model.layers", "model.mlp_dim", "optimizer.lr"]
    tags = events.Tags()["scalars"]
    assert {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags} == {
        "loss/final": [(0, 1.5), (20, 1.5)],
        "quality/final_accuracy": [(0, 0.5), (20, 0.5)],
    }
    group, keys, _ = shown("alone")
    assert group == "alone/linear"
    assert {"model.dim", "data.name"} <= set(keys)
    assert "model.mlp" not in keys
