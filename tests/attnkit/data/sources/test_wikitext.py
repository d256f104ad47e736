import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pooch
import pytest

from attnkit.data.sources.wikitext import REVISION, WikiText
from attnkit.errors import DataError

ROWS = ["", " = First = \n", "", " Text of it . \n", " = = Part = = \n", "", " = Second , too = \n"]
TEXT = " \n = First = \n \n Text of it . \n = = Part = = \n \n = Second , too = \n"
ARTICLES = [" \n = First = \n \n Text of it . \n = = Part = = \n \n", " = Second , too = \n"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "wikitext-2-raw-v1"
    folder.mkdir(parents=True)
    for name in ("wiki.train.raw", "wiki.valid.raw", "test.txt"):
        (folder / name).write_bytes(TEXT.encode())
    return folder.parent


@pytest.fixture
def parquet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for pyarrow: a "parquet file" is the JSON list of its rows."""

    class ParquetFile:
        def __init__(self, path: Path) -> None:
            self.rows: list[str] = json.loads(Path(path).read_text())

        def iter_batches(self, columns: list[str]) -> Any:
            assert columns == ["text"]
            for row in self.rows:
                column = SimpleNamespace(to_pylist=lambda row=row: [row])
                yield SimpleNamespace(column=lambda number, column=column: column)

    module: Any = ModuleType("pyarrow.parquet")
    module.ParquetFile = ParquetFile
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", module)


def test_local_files_are_read_article_by_article(root: Path) -> None:
    source = WikiText(root=str(root))
    for split in ("train", "val", "test"):
        assert list(source.documents(split)) == ARTICLES
    assert source.num_bytes("test") == len(TEXT)


def test_the_fingerprint_follows_the_content(root: Path) -> None:
    before = WikiText(root=str(root)).fingerprint()
    (root / "wikitext-2-raw-v1" / "wiki.valid.raw").write_text("Other.\n")
    assert WikiText(root=str(root)).fingerprint() != before


def test_an_empty_local_file_is_an_error(root: Path) -> None:
    (root / "wikitext-2-raw-v1" / "test.txt").write_text("")
    with pytest.raises(DataError, match=r"test.txt is empty"):
        list(WikiText(root=str(root)).documents("test"))


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"pip install 'attnkit\[wikitext\]'.*wiki.train.raw"):
        list(WikiText().documents("train"))


def test_without_a_network_the_error_names_file_and_place(
    parquet: None, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(DataError) as error:
        list(WikiText().documents("train"))
    for part in ("train-00000-of-00001.parquet", "wikitext-2-raw-v1/wiki.train.raw", "data.root"):
        assert part in str(error.value)
    assert [path.name for path in (cache / "wikitext").rglob("*") if path.is_file()] == [
        "train.txt.lock"
    ]


def test_a_download_becomes_the_plain_text_of_the_original_files(
    parquet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[tuple[str, str]] = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> None:
        fetched.append((url, known_hash))
        (path / fname).write_text(json.dumps(ROWS))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    source = WikiText(version="wikitext-103-raw-v1")
    assert "".join(source.documents("train")) == 2 * TEXT
    assert list(source.documents("val")) == ARTICLES
    assert len(fetched) == 4
    assert all(REVISION in url and len(known) == len("sha256:") + 64 for url, known in fetched)
    assert "".join(WikiText(version="wikitext-103-raw-v1").documents("test")) == TEXT
    assert len(fetched) == 4


def test_an_unknown_version_is_refused() -> None:
    version: Any = "wikitext-2"
    with pytest.raises(DataError, match=r"data.version must be one of wikitext-2-raw-v1, .*"):
        WikiText(version=version)
