import errno
from pathlib import Path

import pytest

from attnkit.errors import DataError
from attnkit.storage.files import atomic_write, cache_folder


def test_the_folder_is_made_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / "cache"))
    assert cache_folder("a", "b") == tmp_path / "cache" / "a" / "b"
    assert (tmp_path / "cache" / "a" / "b").is_dir()


def test_a_cache_that_cannot_be_made_is_an_error_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"file/cache/x cannot be created .*; set ATTNKIT_CACHE"):
        cache_folder("x")


def interrupted_write(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_file_that_was_not_finished_never_appears(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"much longer than the new content")
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


@pytest.mark.parametrize(
    ("cache", "remedy"),
    [("elsewhere", "free some space$"), (".", "free some space, or set ATTNKIT_CACHE to a folder")],
)
def test_a_full_disk_is_reported_with_a_remedy(tmp_path: Path, monkeypatch, cache, remedy) -> None:
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / cache))
    path = tmp_path / "a.bin"
    with (
        pytest.raises(DataError, match=rf"no space left for .*a.bin; {remedy}"),
        atomic_write(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())
