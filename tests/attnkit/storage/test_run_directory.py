import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnkit.storage import run_directory
from attnkit.storage.run_directory import RunDirectoryError, check_free, claim, recipe_of


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "runs" / "name" / "base" / "seed0"


def make_run(directory, finished):
    claim(directory, overwrite=False)
    (directory / run_directory.RECIPE).write_text("name: name\n")
    if finished:
        run_directory.write_json(directory / run_directory.RESULT, {"status": "finished"})


@pytest.mark.parametrize("there_already", [False, True], ids=["missing", "empty"])
def test_a_free_directory_is_made_with_its_parents(directory, there_already):
    if there_already:
        directory.mkdir(parents=True)
    check_free(directory, overwrite=False)
    claim(directory, overwrite=False)
    assert [path.name for path in directory.iterdir()] == [run_directory.CHECKPOINTS]


@pytest.mark.parametrize(("finished", "state"), [(True, "a finished"), (False, "an unfinished")])
def test_a_run_gives_way_only_if_it_may_be_overwritten(directory, finished, state):
    make_run(directory, finished)
    with pytest.raises(
        RunDirectoryError, match=f"seed0 contains {state} run; continue it with --resume"
    ):
        claim(directory, overwrite=False)
    claim(directory, overwrite=True)
    assert [path.name for path in directory.iterdir()] == [run_directory.CHECKPOINTS]


def test_what_is_no_run_is_never_removed(directory):
    directory.mkdir(parents=True)
    (directory / "notes.txt").write_text("precious")
    with pytest.raises(RunDirectoryError, match="contains files but no run"):
        claim(directory, overwrite=True)
    assert (directory / "notes.txt").read_text() == "precious"


def test_a_file_is_never_removed(directory):
    directory.parent.mkdir(parents=True)
    directory.write_text("precious")
    with pytest.raises(RunDirectoryError, match="is a file; set runs_dir"):
        claim(directory, overwrite=True)
    assert directory.read_text() == "precious"


def test_a_place_below_a_file_is_refused_before_any_work(directory):
    file = directory.parents[2]
    file.write_text("")
    with pytest.raises(RunDirectoryError, match="runs is not a writable folder"):
        check_free(directory, overwrite=False)


def test_what_the_disk_refuses_is_told_with_the_remedy(directory, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(RunDirectoryError, match="created: No space left on device; set runs_dir"):
        claim(directory, overwrite=False)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    run_directory.write_json(path, {"text": "größer", "loss": 1.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "größer", "loss": 1.5}
    with pytest.raises(TypeError):
        run_directory.write_json(path, {"path": path})
    assert json.loads(path.read_text(encoding="utf-8"))["loss"] == 1.5
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),  # first on the second machine
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_one_process_is_the_first(environment, first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_directory.is_first_process() is first


def test_the_recipe_of_a_run_is_found(directory):
    make_run(directory, finished=False)
    assert recipe_of(directory).read_text() == "name: name\n"
    above = f"{directory.parent} contains a run; name one: {directory}"
    with pytest.raises(RunDirectoryError, match=re.escape(above)):
        recipe_of(directory.parent)
    with pytest.raises(RunDirectoryError, match=r"has no recipe.yaml, so it is not a run"):
        recipe_of(directory / "checkpoints")
    shutil.rmtree(directory)
    with pytest.raises(RunDirectoryError, match="does not exist; give the directory of a run"):
        recipe_of(directory)


def test_a_lock_that_its_last_holder_removed_meanwhile_is_taken_anew(directory, monkeypatch):
    """Else two processes would each hold a lock, on two files of one name."""
    directory.mkdir(parents=True)
    lock, plain, calls = directory / ".lock", fcntl.lockf, []

    def after_the_last_holder(file, operation):
        calls.append(file)
        if len(calls) == 1:
            lock.unlink()
            lock.touch()
        plain(file, operation)

    monkeypatch.setattr(fcntl, "lockf", after_the_last_holder)
    with run_directory.in_use(directory):
        assert len(calls) == 2
        assert os.path.samestat(os.fstat(calls[1].fileno()), lock.stat())
        assert not run_directory.is_in_use(directory)  # by another process
        check = "import sys, pathlib; from attnkit.storage import run_directory as r; "
        check += "sys.exit(3 if r.is_in_use(pathlib.Path(sys.argv[1])) else 0)"
        assert subprocess.run([sys.executable, "-c", check, directory]).returncode == 3
    assert not lock.exists()
