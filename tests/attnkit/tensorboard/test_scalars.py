"""Curves come back from event files as they were written, whatever lies between them."""

import numpy as np
import pytest

from attnkit.listeners.event_file import EventFile
from attnkit.listeners.metric_files import JsonLines, TidyCsv
from attnkit.tensorboard.event_files import ResumePoint, event_files
from attnkit.tensorboard.images import Image
from attnkit.tensorboard.scalars import read_scalars


@pytest.fixture
def written(tmp_path):
    """A file with 300 points of two tags, texts, an image and a tag that begins like another."""
    logger = EventFile(tmp_path, trial_id="base")
    logger.begin({"dim": 8})
    for step in range(0, 30_000, 100):
        logger.scalars({"loss/val": step / 7, "loss/value": -1.0, "loss/train": -step}, step)
        if step % 1000 == 0:
            logger.text("sample", "loss/val " * 50, step)
            logger.image("map", Image(bytes(range(256)) * 40, 1, 1), step)
    logger.finish("success")
    return tmp_path


def test_every_point_comes_back(written):
    found = read_scalars(written, ["loss/val", "loss/train", "none"])
    steps = np.arange(0, 30_000, 100)
    assert sorted(found) == ["loss/train", "loss/val"]
    assert np.array_equal(found["loss/val"].steps, steps)
    assert np.array_equal(found["loss/val"].values, (steps / 7).astype(np.float32))
    assert np.array_equal(found["loss/train"].values, -steps.astype(np.float32))


def test_it_agrees_with_tensorboards_own_reader(real_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(real_run.directory), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    assert len(tags) > 5
    found = read_scalars(real_run.directory)
    assert sorted(found) == sorted(tags)
    assert read_scalars(real_run.directory, tags[:2]).keys() == set(tags[:2])
    for tag in tags:
        points = events.Scalars(tag)
        assert found[tag].steps.tolist() == [point.step for point in points]
        assert found[tag].values.tolist() == [point.value for point in points]


def test_a_file_that_was_cut_off_gives_what_is_whole(written):
    (file,) = event_files(written)
    content = file.read_bytes()
    whole = read_scalars(written, ["loss/val"])["loss/val"].steps
    for length in (len(content) // 2, 30, 11, 0):
        file.write_bytes(content[:length])
        found = read_scalars(written, ["loss/val"])
        steps = found["loss/val"].steps if found else np.array([])
        assert np.array_equal(steps, whole[: len(steps)])
        assert (len(steps) > 100) == (length > 30)


def test_a_resumed_run_is_one_curve(written):
    (file,) = event_files(written)
    point = ResumePoint(29_900, {file.name: file.stat().st_size})
    logger = EventFile(written, trial_id="base", resume=point)
    logger.scalars({"loss/val": 5.0}, 29_900)
    logger.scalars({"loss/val": 6.0}, 30_000)
    logger.finish("success")
    found = read_scalars(written, ["loss/val"])["loss/val"]
    assert found.steps[-3:].tolist() == [29_800, 29_900, 30_000]
    assert found.values[-2:].tolist() == [5.0, 6.0]


def test_a_folder_without_event_files(tmp_path):
    assert read_scalars(tmp_path, ["loss/val"]) == {}


@pytest.mark.parametrize("kind", [JsonLines, TidyCsv])
def test_curves_of_plain_files_come_back(tmp_path, kind):
    logger = kind(tmp_path)
    for step in range(5):
        logger.scalars({"loss/train": step / 3, 'odd, "tag"': -step}, step)
    logger.finish("success")
    (file,) = tmp_path.iterdir()
    with file.open("ab") as opened:
        opened.write(b"a damaged line\n{}\n1,2\n5,loss/train," + b"1" * 200_000 + b"\n")
        opened.write(b'{"step": 9, "loss/train": 1')
    found = read_scalars(tmp_path)
    assert sorted(found) == ["loss/train", 'odd, "tag"']
    assert found["loss/train"].steps.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(found["loss/train"].values, (np.arange(5) / 3).astype("f4"))
    assert read_scalars(tmp_path, ["none"]) == {}


def test_a_run_that_changed_its_loggers_is_one_curve(tmp_path):
    first = EventFile(tmp_path, trial_id="base")
    second, third = JsonLines(tmp_path), TidyCsv(tmp_path)
    for step in range(6):
        for logger in [first] * (step < 3) + [second] * (1 < step < 5) + [third] * (step > 3):
            logger.scalars({"loss/val": float(step)}, step)
    for logger in (first, second, third):
        logger.finish("success")
    found = read_scalars(tmp_path, ["loss/val"])["loss/val"]
    assert found.steps.tolist() == found.values.tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_not_finite_is_a_gap_in_json_and_stays_in_csv(tmp_path):
    for kind in (JsonLines, TidyCsv):
        logger = kind(tmp_path)
        logger.scalars({"loss/train": float("inf"), "norm": 1e300}, 1)
        logger.finish("success")
    assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()
    found = read_scalars(tmp_path)
    assert found["loss/train"].values.tolist() == found["norm"].values.tolist() == [np.inf]
