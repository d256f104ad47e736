import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from attnkit.dashboard.server import DashboardError, arguments


def value(flags, name):
    return flags[flags.index(name) + 1]


def test_every_logged_step_is_asked_for(tmp_path):
    flags = arguments([tmp_path], "localhost", 6007)
    assert value(flags, "--logdir") == str(tmp_path)
    assert value(flags, "--port") == "6007"
    assert value(flags, "--samples_per_plugin") == "attention=200,images=100"


def test_without_a_port_tensorboard_looks_for_a_free_one(tmp_path):
    assert "--port" not in arguments([tmp_path], "localhost", None)


def test_several_folders_get_names_that_tell_them_apart(tmp_path):
    folders = [tmp_path / "x" / "runs", tmp_path / "y" / "runs"]
    for folder in folders:
        folder.mkdir(parents=True)
    spec = value(arguments(folders, "localhost", None), "--logdir_spec")
    assert spec == f"x_runs:{folders[0]},y_runs:{folders[1]}"


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["file"], "file is a file"),
        (["good", "good"], "given twice"),
        (["good", "a,b"], "comma"),
    ],
)
def test_bad_folders_are_told(folders, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("good", "a,b"):
        Path(name).mkdir()
    Path("file").touch()
    with pytest.raises(DashboardError, match=said):
        arguments([Path(name) for name in folders], "localhost", None)


def attnkit(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "attnkit", "dashboard", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_stops_when_asked(ending, tmp_path, make_record, logged, write_run):
    write_run(tmp_path / "run", [logged(make_record(), 0)])
    process = attnkit(str(tmp_path), "--port", "0")
    try:
        assert process.stdout is not None
        first, second, third, _ = (process.stdout.readline() for _ in range(4))
        assert first.startswith("attention  http://")
        assert first.strip().endswith("/#attention")
        assert second.strip().endswith("/#ablations")
        address = third.removeprefix("other tabs").strip()
        with urllib.request.urlopen(f"{address}data/plugin/attention/index", timeout=300) as answer:
            assert json.load(answer)["version"] == 1
    finally:
        process.send_signal(ending)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = attnkit(str(tmp_path), "--host", "127.0.0.1", "--port", str(port))
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert f"port {port}" in errors.lower()
    assert "try another --port" in errors
    assert "Traceback" not in errors
