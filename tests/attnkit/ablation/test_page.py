"""The page and the picture: one file, no network, names as text, curves as they were logged."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.comparison_page import page
from attnkit.ablation.curves import MAX_POINTS, learning_curves
from attnkit.ablation.picture import COLOURS, picture


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_curves_are_means_over_seeds_with_their_range(finished_study):
    tag, curves = learning_curves(compare_runs([finished_study]))
    assert tag == "loss/val"
    base, _, same = curves
    noise = np.array([0.01, -0.02, 0.015, -0.005])
    assert base.steps.tolist() == [0, 5, 10]
    assert base.mean == pytest.approx([3.0, 2.0 + noise.mean(), 1.0 + noise.mean()])
    assert base.low == pytest.approx([3.0, 1.98, 0.98])
    assert base.high == pytest.approx([3.0, 2.015, 1.015])
    assert same.steps.tolist() == [0, 10]
    assert base.per_step["tokens"] == 128


def test_seeds_measured_at_other_steps_are_compared_where_all_are(make_run, tmp_path):
    make_run("base", 0, curve={0: 4.0, 10: 2.0, 20: 1.0})
    make_run("base", 1, curve={5: 3.0, 15: 1.0})
    make_run("base", 2)  # nothing logged
    _, (curve,) = learning_curves(compare_runs([tmp_path]))
    assert curve.steps.tolist() == [5, 10, 15]
    assert curve.mean == pytest.approx([3.0, 2.0, 1.25])


@pytest.mark.parametrize("metric", ["accuracy", "accuracy_length_64"])
def test_the_curve_is_that_of_the_metric_where_all_have_one(make_run, tmp_path, metric):
    options = {"metrics": {metric: 0.5}, "tag": "quality/accuracy"}
    make_run("base", 0, curve={0: 0.1, 6: 0.5}, **options)
    tag, (curve,) = learning_curves(compare_runs([tmp_path], metric=metric))
    assert (tag, curve.mean.tolist()) == ("quality/accuracy", pytest.approx([0.1, 0.5]))
    make_run("other", 0, metrics={metric: 0.5}, curve={0: 3.0, 6: 1.0})
    tag, curves = learning_curves(compare_runs([tmp_path], metric=metric))
    assert (tag, [curve.variant for curve in curves]) == ("loss/val", ["other"])


def test_long_curves_are_thinned(make_run, tmp_path):
    make_run("base", 0, curve={step: float(step) for step in range(1, 2 * MAX_POINTS)})
    _, (curve,) = learning_curves(compare_runs([tmp_path]))
    assert len(curve.steps) == MAX_POINTS
    assert (curve.steps[0], curve.steps[-1]) == (1, 2 * MAX_POINTS - 1)
    assert np.array_equal(curve.mean, curve.steps)


def test_the_page_holds_table_curves_and_costs(finished_study):
    text = page(compare_runs([finished_study]))
    data = data_of(text)
    view, curves = data["view"], data["curves"]
    assert [one["name"] for one in view["variants"]] == ["base", "better", "same"]
    assert curves["curves"][1]["mean"] == [3.0, 1.5, 0.8]
    assert curves["steps"][curves["curves"][1]["steps"]] == [0, 5, 10]
    assert len(curves["seeds"]) == 12
    row = view["table"]["rows"]["better"]
    assert (row["parameters"], row["verdict"]) == (6848, "better")
    assert "-0.2000 ± 0.0377" in row["words"]
    assert data["exports"]["csv"].startswith("metric,base,variant")
    assert "| better | 0.8000" in text, "also without JavaScript"


def test_the_page_needs_no_network(finished_study):
    text = page(compare_runs([finished_study]))
    assert not re.search(r"(?:src|href)=|@import|url\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


def test_nothing_in_a_name_is_markup(make_run, tmp_path):
    for seed in (0, 1):
        run = make_run("base", seed, curve={0: 2.0, 6: 1.0})
    run.parent.rename(run.parent.with_name("<script>alert(1)<!--{{data}}"))
    (tmp_path / "left").mkdir()
    (tmp_path / "left/recipe.yaml").write_text("")
    (tmp_path / "left").rename(tmp_path / "<img src=x onerror=alert(1)>")
    text = page(compare_runs([tmp_path]))
    assert text.count("<script") == text.count("</script>") == 3
    assert "<!--" not in text
    assert "<img" not in text
    (variant,) = data_of(text)["view"]["variants"]
    assert variant["name"] == "<script>alert(1)<!--{{data}}"


def test_the_picture_shows_every_variant(finished_study):
    image = Image.open(io.BytesIO(picture(compare_runs([finished_study]))))
    assert image.format == "PNG"
    assert image.width > 2000
    colours = {colour for _, colour in image.getcolors(1 << 24)}
    for colour in COLOURS[:3]:
        assert tuple(bytes.fromhex(colour[1:])) in colours
    assert tuple(bytes.fromhex(COLOURS[3][1:])) not in colours


def test_a_picture_without_curves_and_spread(make_run, tmp_path):
    make_run("base", 0)
    assert Image.open(io.BytesIO(picture(compare_runs([tmp_path])))).width > 2000
