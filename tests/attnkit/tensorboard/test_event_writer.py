"""The event file: what is in it, its name, and a file system that refuses it."""

import os
import shutil
import time

from tensorboard.backend.event_processing import event_accumulator

from attnkit.tensorboard import summaries
from attnkit.tensorboard.event_files import event_files
from attnkit.tensorboard.event_writer import EventWriter


def shown(directory):
    return event_accumulator.EventAccumulator(str(directory)).Reload()


def test_a_directory_that_has_gone_costs_the_curves_and_not_the_run(tmp_path, caplog):
    writer = EventWriter(tmp_path / "run")
    writer.add_summary(summaries.scalar("loss/train", 1.0), 0)
    writer.flush()
    (tmp_path / "run").rename(tmp_path / "away")
    os.close(writer._file.fileno())  # as a network disk that is lost
    for step in range(1, 5):
        writer.add_summary(summaries.scalar("loss/train", 1.0), step)
        writer.flush()
    writer.close()
    writer.close()
    (record,) = caplog.records
    assert "cannot be written: Bad file descriptor; training continues" in record.getMessage()
    assert [event.step for event in shown(tmp_path / "away").Scalars("loss/train")] == [0]
    shutil.rmtree(tmp_path / "away")


def test_a_later_file_comes_later_by_its_name_also_within_a_second(tmp_path):
    now = int(time.time())
    for name in (f"{now + 5}.host.9.9", "of_somebody_else"):
        (tmp_path / f"events.out.tfevents.{name}").touch()
    for step in range(2):
        writer = EventWriter(tmp_path)
        writer.add_summary(summaries.scalar("loss/train", float(step)), step)
        writer.close()
    stamps = [file.name.split(".")[3] for file in event_files(tmp_path)]
    assert stamps == [str(now + 5), str(now + 6), str(now + 7), "of_somebody_else"]
    assert [event.step for event in shown(tmp_path).Scalars("loss/train")] == [0, 1]


def test_a_record_is_in_the_file_without_a_flush(tmp_path, monkeypatch):
    monkeypatch.setattr("attnkit.tensorboard.event_writer.FLUSH_SECONDS", 0.02)
    writer = EventWriter(tmp_path)
    writer.add_summary(summaries.scalar("loss/train", 1.0), 0)
    deadline = time.monotonic() + 10
    while b"loss/train" not in writer.path.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.close()
