import struct

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from attnkit.tensorboard import summaries
from attnkit.tensorboard.event_files import ResumePoint, cut_back, event_files, logged_bytes


@pytest.fixture
def written(tmp_path):
    """An event file with a scalar at steps 0 to 9 and a successful end."""
    with SummaryWriter(str(tmp_path)) as writer:
        writer._get_file_writer().add_summary(summaries.session_start({"dim": 8}, "base"), 0)
        for step in range(10):
            writer.add_scalar("loss/train", 1 / (1 + step), step)
        writer._get_file_writer().add_summary(summaries.session_end("success"), 0)
    (file,) = event_files(tmp_path)
    return file


def end_of_step(file, step):
    """How long the file was when a step had been written: records are copied from it one by one."""
    content, start = file.read_bytes(), 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        event = Event.FromString(content[start + 12 : start + 12 + length])
        if event.step > step:
            break
        start += length + 16
    return start


def steps_and_tags(file):
    events = EventFileLoader(str(file)).Load()
    return [(event.step, value.tag) for event in events for value in event.summary.value]


def test_later_steps_and_the_end_are_removed_and_the_rest_is_left(written):
    before = written.read_bytes()
    cut_back(written.parent, ResumePoint(3, {written.name: end_of_step(written, 3)}))
    assert steps_and_tags(written) == [
        (0, "_hparams_/session_start_info"),
        *[(step, "loss/train") for step in range(4)],
    ]
    assert before.startswith(written.read_bytes())
    assert [file.name for file in written.parent.iterdir()] == [written.name]


def test_a_record_that_was_cut_short_goes_too(written):
    length = end_of_step(written, 8)
    written.write_bytes(written.read_bytes()[: length + 7])
    cut_back(written.parent, ResumePoint(8, {written.name: length}))
    assert [step for step, tag in steps_and_tags(written) if tag == "loss/train"] == [*range(9)]
    assert written.stat().st_size == length


def test_a_file_that_the_checkpoint_does_not_know_is_removed(written):
    later = written.with_name(f"{written.name}.later")
    later.write_bytes(written.read_bytes())
    cut_back(written.parent, ResumePoint(9, {written.name: written.stat().st_size}))
    assert event_files(written.parent) == [written]
    cut_back(written.parent, ResumePoint())
    assert event_files(written.parent) == []


def test_a_file_that_lost_its_end_is_left_as_it_is(written):
    before = written.read_bytes()
    cut_back(written.parent, ResumePoint(9, {written.name: len(before) + 100}))
    assert written.read_bytes() == before


def test_other_files_and_folders_below_are_no_event_files(written):
    directory = written.parent
    (directory / "recipe.yaml").touch()
    (directory / "below").mkdir()
    (directory / "below" / "events.out.tfevents.1").touch()
    assert event_files(directory) == [written]


def test_all_files_that_are_logged_are_cut_back_whoever_listens_now(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "metrics.csv").write_text("step,name,value\n1,a,1.0\n")
    (tmp_path / "recipe.yaml").write_text("dim: 8\n")
    assert logged_bytes(tmp_path) == {"metrics.csv": 24, "metrics.jsonl": 24}
    cut_back(tmp_path, ResumePoint(1, {"metrics.jsonl": 12, "recipe.yaml": 2}))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not (tmp_path / "metrics.csv").exists()
    assert (tmp_path / "recipe.yaml").read_text() == "dim: 8\n"
