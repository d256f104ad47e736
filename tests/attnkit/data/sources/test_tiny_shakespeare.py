from pathlib import Path

import pooch
import pytest

from attnkit.data.sources.tiny_shakespeare import TinyShakespeare
from attnkit.errors import DataError


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(pooch, "retrieve", refuse)


def test_it_is_split_where_nanogpt_splits_it(shakespeare_root: str) -> None:
    source = TinyShakespeare(root=shakespeare_root)
    (train,), (val,) = source.documents("train"), source.documents("val")
    assert (len(train), len(val)) == (1_003_854, 111_540)
    assert train.startswith("First Citizen:\nBefore we proceed")
    assert len(set(train + val)) == 65


def test_it_is_found_by_the_environment_variable_too(
    shakespeare_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setenv("ATTNKIT_DATA", shakespeare_root)
    assert TinyShakespeare(root=str(tmp_path)).num_bytes("val") == 111_540


def test_the_file_may_lie_in_the_root_itself(shakespeare_root: str, no_network: None) -> None:
    source = TinyShakespeare(root=str(Path(shakespeare_root, "tinyshakespeare")))
    assert source.describe()["bytes"] == 1_115_394


def test_without_a_network_the_error_says_which_file_to_put_where(no_network: None) -> None:
    with pytest.raises(DataError) as error:
        TinyShakespeare().fingerprint()
    for part in (
        "input.txt could not be",
        "tinyshakespeare/input.txt",
        "data.root",
        "ATTNKIT_DATA",
    ):
        assert part in str(error.value)


def test_another_text_under_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("To be, or not to be")
    with pytest.raises(DataError, match=r"input.txt is not tiny Shakespeare.*expected 86c4e6aa"):
        list(TinyShakespeare(root=str(tmp_path)).documents("train"))


def test_a_root_that_does_not_exist_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root: .*nowhere is not a folder"):
        list(TinyShakespeare(root=str(tmp_path / "nowhere")).documents("train"))
