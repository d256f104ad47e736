import pytest

from attnkit.data import byte_progress
from attnkit.data.byte_progress import ByteProgress


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ByteProgress("tokenising train", 100) as bar:
        bar.advance(100)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_one_line_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_progress, "PATIENCE", -1.0)
    with ByteProgress("tokenising train", 2_500_000) as bar:
        for _ in range(5):
            bar.advance(500_000)
        bar.finish("choosing its tokens")
    out, error = capsys.readouterr()
    assert out == ""
    assert error == "tokenising train: 2.5 MB (done only once)\nchoosing its tokens\n"
