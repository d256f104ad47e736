"""Curves come back from event files as they were written, whatever lies between them."""

import numpy as np
import pytest

from attnkit.tensorboard.event_files import ResumePoint, event_files
from attnkit.tensorboard.logger import RunLogger
from attnkit.tensorboard.scalars import read_scalars


@pytest.fixture
def written(tmp_path):
    """A file with 300 points of two tags, texts, an image and a tag that begins like another."""
    logger = RunLogger(tmp_path, trial_id="base")
    logger.layout()
    for step in range(0, 30_000, 100):
        logger.log_metrics({"loss/val": step / 7, "loss/value": -1.0, "loss/train": -step}, step)
        if step % 1000 == 0:
            logger.text("sample", "loss/val " * 50, step)
            logger.image_png("map", bytes(range(256)) * 40, 1, 1, step)
    logger.finalize("success")
    logger.close()
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
    logger = RunLogger(written, trial_id="base", resume=point)
    logger.log_metrics({"loss/val": 5.0}, 29_900)
    logger.log_metrics({"loss/val": 6.0}, 30_000)
    logger.close()
    found = read_scalars(written, ["loss/val"])["loss/val"]
    assert found.steps[-3:].tolist() == [29_800, 29_900, 30_000]
    assert found.values[-2:].tolist() == [5.0, 6.0]


def test_a_folder_without_event_files(tmp_path):
    assert read_scalars(tmp_path, ["loss/val"]) == {}
