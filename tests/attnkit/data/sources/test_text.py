import re
from pathlib import Path

import pytest

from attnkit.data import text_files
from attnkit.data.sources.text import TextFiles
from attnkit.errors import DataError

LINES = "".join(f"line {number}: Grüße aus 서울 👋\n" for number in range(100))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    monkeypatch.chdir(corpus)
    (corpus / "a.txt").write_bytes(LINES.encode())
    (corpus / "b.txt").write_bytes(("second " * 50).encode())
    (corpus / "empty.txt").write_bytes(b"")
    return corpus


def test_the_end_of_each_file_is_validation_text(folder: Path) -> None:
    source = TextFiles(files=["a.txt", "b.txt"])
    train, val = list(source.documents("train")), list(source.documents("val"))
    assert [a + b for a, b in zip(train, val, strict=True)] == [LINES, "second " * 50]
    assert val[0].startswith("line 9")
    assert len(val[1]) == 35
    assert source.num_bytes("val") == sum(len(text.encode()) for text in val)


def test_a_file_without_line_breaks_is_cut_between_characters(folder: Path) -> None:
    (folder / "korean.txt").write_bytes(("서" * 101).encode())
    source = TextFiles(files="korean.txt")
    train, val = "".join(source.documents("train")), "".join(source.documents("val"))
    assert train + val == "서" * 101
    assert len(val) == 10


@pytest.mark.parametrize("size", [7, 16, 64, 1000])
def test_pieces_are_small_whole_and_end_at_line_breaks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", size)
    source = TextFiles(files=["a.txt", "b.txt"])
    pieces = list(source.pieces("train"))
    assert "".join(piece.text for piece in pieces) == "".join(source.documents("train"))
    assert [piece.ends_document for piece in pieces].count(True) == 2
    assert pieces[-1].ends_document
    assert max(len(piece.text.encode()) for piece in pieces) <= 2 * size
    if size == 64:
        assert all(piece.text.endswith(("\n", " ")) for piece in pieces)


def test_a_large_file_comes_in_pieces_of_bounded_size(folder: Path) -> None:
    (folder / "large.txt").write_bytes(LINES.encode() * 400)
    sizes = [len(piece.text.encode()) for piece in TextFiles(files="large.txt").pieces("train")]
    assert len(sizes) > 4
    assert max(sizes) <= 2 * text_files.PIECE_BYTES


def test_patterns_are_sorted_and_each_file_counts_once(folder: Path) -> None:
    (folder / "empty.txt").unlink()
    source = TextFiles(files=["b.txt", "*.txt"])
    names = [Path(file["path"]).name for file in source.describe()["files"]]
    assert names == ["b.txt", "a.txt"]


def test_separate_validation_files_leave_the_others_whole(folder: Path) -> None:
    source = TextFiles(files="a.txt", val_files="b.txt")
    assert list(source.documents("train")) == [LINES]
    assert list(source.documents("val")) == ["second " * 50]


def test_the_fingerprint_follows_content_and_split_and_not_the_path(folder: Path) -> None:
    before = TextFiles(files="a.txt").fingerprint()
    (folder / "copy.txt").write_bytes(LINES.encode())
    assert TextFiles(files="copy.txt").fingerprint() == before
    assert TextFiles(files="a.txt", val_fraction=0.2).fingerprint() != before
    (folder / "copy.txt").write_bytes(LINES.replace("line 3:", "line 4:").encode())
    assert TextFiles(files="copy.txt").fingerprint() != before


def test_a_byte_order_mark_is_dropped_and_line_ends_are_kept(folder: Path) -> None:
    (folder / "bom.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree")
    source = TextFiles(files="bom.txt", val_fraction=0.3)
    assert [*source.documents("train"), *source.documents("val")] == ["one\r\ntwo\r\n", "three"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": "no.txt"}, "data.files: no.txt does not exist"),
        ({"files": "empty.txt"}, "data.files: .*empty.txt is empty"),
        ({"files": "."}, "data.files: . is a folder; name its files"),
        ({"files": "*.md"}, r"data.files: no file matches \*.md"),
        ({"files": []}, "data.files is empty"),
        ({"files": "a.txt", "val_files": "no.txt"}, "data.val_files: no.txt does not exist"),
        ({"files": "a.txt", "val_files": "./a.txt"}, "a.txt is in both"),
    ],
)
def test_what_is_wrong_is_said_with_key_and_file(
    folder: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(TextFiles(**options).documents("train"))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_the_fraction_must_leave_both_splits_something(fraction: float) -> None:
    with pytest.raises(DataError, match=f"data.val_fraction must be between 0 and 1.*{fraction}"):
        TextFiles(files="a.txt", val_fraction=fraction)


@pytest.mark.parametrize(("line", "split"), [(3, "train"), (99, "val")])
def test_bad_utf8_is_found_by_line_and_byte(folder: Path, line: int, split: str) -> None:
    lines = LINES.encode().splitlines(keepends=True)
    offset = sum(map(len, lines[: line - 1])) + 5
    lines[line - 1] = lines[line - 1][:5] + b"\xff" + lines[line - 1][6:]
    (folder / "bad.txt").write_bytes(b"".join(lines))
    expected = re.escape(f"bad.txt:{line}: byte 0xff at offset {offset} is not valid UTF-8")
    with pytest.raises(DataError, match=expected):
        list(TextFiles(files="bad.txt").documents(split))


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no split `test` \(there are: train, val\)"):
        list(TextFiles(files="a.txt").documents("test"))


@pytest.mark.parametrize("pattern", ["texts [1]/*.txt", "texts [1]/**/*.txt", "texts [1]/a[b].txt"])
def test_brackets_in_what_exists_are_letters(pattern, tmp_path):
    folder = tmp_path / "texts [1]"
    folder.mkdir()
    (folder / "a[b].txt").write_text("one\ntwo\n")
    source = TextFiles(files=tmp_path / pattern)
    assert source.describe()["files"][0]["path"] == str(folder / "a[b].txt")


def test_brackets_in_what_does_not_are_a_pattern(tmp_path):
    for name in ("ab.txt", "ac.txt", "ad.txt"):
        (tmp_path / name).write_text("one\ntwo\n")
    files = TextFiles(files=tmp_path / "a[bd].txt").describe()["files"]
    assert [Path(file["path"]).name for file in files] == ["ab.txt", "ad.txt"]
