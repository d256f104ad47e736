import ast
import platform
import sysconfig
from pathlib import Path

import pytest

from attnkit.data.sources.stdlib_docs import StdlibDocs
from attnkit.errors import DataError
from attnkit.runs.experiment import data_read

LONG = "Says more than eighty characters about what it is for, so that it is worth reading {}."


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lib"
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
    write(folder / "b.py", f'"""{LONG.format("b")}"""\nclass A:\n    """Short."""\n')
    write(
        folder / "a" / "__init__.py",
        f'def f():\n    """{LONG.format("f")}\n\n    Second.\n    """\n'
        f'async def g():\n    r"""{LONG.format("b")}"""\n',
    )
    write(folder / "test" / "t.py", f'"""{LONG.format("test")}"""\n')
    write(folder / "site-packages" / "s.py", f'"""{LONG.format("site")}"""\n')
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def all_documents(source: StdlibDocs) -> list[str]:
    return [text for split in source.splits for text in source.documents(split)]


def test_takes_each_long_docstring_once_and_no_tests(library: Path) -> None:
    documents = all_documents(StdlibDocs())
    assert sorted(documents) == [LONG.format("b"), LONG.format("f") + "\n\nSecond."]


def test_the_split_of_a_docstring_does_not_depend_on_the_others(library: Path) -> None:
    for number in range(60):
        write(library / "c" / f"{number}.py", f'"""{LONG.format(number)}"""\n')
    before = {split: set(StdlibDocs().documents(split)) for split in ("train", "val")}
    assert 1 <= len(before["val"]) <= 15
    for number in range(0, 60, 2):
        (library / "c" / f"{number}.py").unlink()
    after = {split: set(StdlibDocs().documents(split)) for split in ("train", "val")}
    assert len(after["train"]) < len(before["train"])
    assert all(after[split] < before[split] or not after[split] for split in after)


def test_the_second_time_nothing_is_parsed(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = all_documents(StdlibDocs())
    monkeypatch.setattr(ast, "parse", lambda *_, **__: pytest.fail("parsed again"))
    assert all_documents(StdlibDocs()) == first


def test_a_changed_library_is_read_again(library: Path) -> None:
    before = StdlibDocs().fingerprint()
    write(library / "z.py", f'"""{LONG.format("z")}"""\n')
    assert StdlibDocs().fingerprint() != before


def test_a_damaged_cache_is_an_error_with_the_remedy(library: Path, cache: Path) -> None:
    StdlibDocs().fingerprint()
    (file,) = (cache / "stdlib_docs").glob("*.json")
    file.write_text(file.read_text().replace("reading b", "reading x"))
    with pytest.raises(DataError, match=rf"{file.name} is damaged.*delete it"):
        StdlibDocs().fingerprint()


def test_a_library_without_source_files_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="has no source files"):
        StdlibDocs().fingerprint()


@pytest.mark.slow
def test_the_running_library_gives_a_corpus(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNKIT_CACHE", str(shared_cache))
    source = StdlibDocs()
    about = source.describe()
    assert about["documents"] > 2500
    assert about["bytes"] > 900_000
    assert 0.08 < source.num_bytes("val") / about["bytes"] < 0.12
    assert not set(source.documents("train")) & set(source.documents("val"))
    assert about["sha256"] == StdlibDocs().fingerprint()


def test_a_result_says_which_python_was_read(library: Path) -> None:
    source = StdlibDocs()
    assert data_read({"source": source.describe()}) == {
        "source": "docstrings of the Python standard library",
        "python": platform.python_version(),
        "sha256": source.fingerprint(),
    }
