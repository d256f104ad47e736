"""The suite itself, as it meets machines other than ours."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

NOISY = """
import warnings
warnings.warn("imported", DeprecationWarning)


def pytest_load_initial_conftests():
    warnings.warn("loading", DeprecationWarning)


def pytest_configure(config):
    warnings.warn("configuring", UserWarning)


def pytest_sessionstart(session):
    warnings.warn("starting", UserWarning)
"""


GPU = """
import torch

torch.cuda.is_available = torch.backends.mps.is_available = lambda: True
torch.cuda.device_count = lambda: 1
"""

CPU_ALONE = """
import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator

from attnkit.hardware.devices import compiles, default_device

VISIBLE = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))"


def seen():
    ended = subprocess.run([sys.executable, "-c", VISIBLE], stdout=subprocess.PIPE, text=True)
    return default_device().type, CUDAAccelerator.is_available(), ended.stdout.strip()


@pytest.fixture(scope="session")
def made_for_all():
    return seen()


def test_it(made_for_all):
    assert made_for_all == seen() == ("cpu", False, "")
    assert not compiles("auto", "auto")


@pytest.mark.gpu
def test_gpu():
    assert seen() == ("cuda", True, "all")
"""


def pytest_of(folder, test, *options):
    """A test of another folder under this suite's configuration and conftest."""
    (folder / "noisy_plugin.py").write_text(NOISY)
    (folder / "gpu_plugin.py").write_text(GPU)
    (folder / "test_it.py").write_text(test)
    (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    paths = f"import sys; sys.path.insert(0, {str(folder)!r}); import pytest; "
    arguments = ["-q", "-n", "0", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    arguments += ["--rootdir", str(folder), *options, str(folder)]
    command = [sys.executable, "-c", paths + f"sys.exit(pytest.main({arguments!r}))"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_plugin_that_warns_at_start_stops_nothing(tmp_path):
    ended = pytest_of(tmp_path, "def test_it():\n    pass\n", "-p", "noisy_plugin")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def test_a_warning_in_a_test_is_an_error(tmp_path):
    test = "import warnings\n\n\ndef test_it():\n    warnings.warn('mine')\n"
    ended = pytest_of(tmp_path, test)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "UserWarning: mine" in ended.stdout


def test_a_test_sees_no_gpu_unless_it_is_marked(tmp_path, monkeypatch):
    """On a machine that says it has one."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ended = pytest_of(tmp_path, CPU_ALONE, "-p", "gpu_plugin")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout
