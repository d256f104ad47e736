import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from attnkit.tensorboard import summaries
from attnkit.tensorboard.event_files import cut_back, event_files


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


def steps_and_tags(file):
    events = EventFileLoader(str(file)).Load()
    return [(event.step, value.tag) for event in events for value in event.summary.value]


def test_later_steps_and_the_end_are_removed_and_the_rest_is_left(written):
    before = written.read_bytes()
    cut_back(written, 4)
    assert steps_and_tags(written) == [
        (0, "_hparams_/session_start_info"),
        *[(step, "loss/train") for step in range(4)],
    ]
    assert before.startswith(written.read_bytes())
    assert [file.name for file in written.parent.iterdir()] == [written.name]


def test_a_record_that_was_cut_short_goes_too(written):
    whole = written.read_bytes()
    written.write_bytes(whole[:-7])
    cut_back(written, 1000)
    assert [step for step, tag in steps_and_tags(written) if tag == "loss/train"] == [*range(10)]
    assert len(written.read_bytes()) < len(whole) - 7


def test_a_damaged_record_is_named(written):
    content = bytearray(written.read_bytes())
    content[12:30] = b"\xff" * 18
    written.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{written.name}: the record at byte 0 is damaged; move"):
        cut_back(written, 4)
    assert written.read_bytes() == content


def test_other_files_and_folders_below_are_no_event_files(written):
    directory = written.parent
    (directory / "recipe.yaml").touch()
    (directory / "below").mkdir()
    (directory / "below" / "events.out.tfevents.1").touch()
    assert event_files(directory) == [written]
