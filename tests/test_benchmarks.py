"""Benchmarks that are run where a run that fails cannot be repeated."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_can_be_rehearsed_without_one(tmp_path):
    """Each part runs, and gives lines for the table of results."""
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    command = [sys.executable, str(script), "--rehearse"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) > 25
    assert all(line.count(" | ") == 3 for line in lines)
    assert not list(tmp_path.iterdir())
