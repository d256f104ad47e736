import json
import os
import platform
import socket

from attnkit.runs.environment import add_kernels, current_environment
from attnkit.storage import run_directory


def test_the_environment_pins_versions_and_names_nobody(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/somebody/bin/attnkit", "run", "a.yaml"])
    found = current_environment()
    assert found["python"] == platform.python_version()
    assert set(found["packages"]) >= {"attnkit", "torch", "lightning"}
    assert found["command"] == ["attnkit", "run", "a.yaml"]
    assert json.loads(json.dumps(found)) == found
    assert socket.gethostname() not in found["platform"].split("-")
    assert os.cpu_count() == found["cpu_cores"]


def test_certificates_of_kernels_join_the_record_of_the_machine(tmp_path):
    file = tmp_path / run_directory.ENVIRONMENT
    run_directory.write_json(file, {"packages": {"torch": "2"}})
    add_kernels(tmp_path, [{"kernel": "fla.chunk_gla", "accepted": True}])
    assert json.loads(file.read_text()) == {
        "packages": {"torch": "2"},
        "kernels": [{"kernel": "fla.chunk_gla", "accepted": True}],
    }
