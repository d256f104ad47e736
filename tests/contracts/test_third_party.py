"""A package made from scratch, installed with pip, found by its entry point."""

import os
import subprocess
import sys

import pytest

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "their-attention"
version = "1.0"

[project.entry-points."attnkit.plugins"]
theirs = "their_attention"

[tool.setuptools]
py-modules = ["their_attention"]
"""
MECHANISM = '''\
from attnkit import ATTENTION
from attnkit.attention.multi_head import MultiHead


@ATTENTION.register("their_softcap")
class TheirSoftcap(MultiHead):
    """Scores saturate.

    Args:
        cap: no score is larger.
    """

    def __init__(self, dim: int, *, cap: float = 30.0, **options) -> None:
        super().__init__(dim, **options)
        self.cap = cap

    def scores(self, q, k):
        return self.cap * (super().scores(q, k) / self.cap).tanh()
'''
TEST = """\
from attnkit.checks import laws_of

test_theirs = laws_of("their_softcap", {"cap": 4.0})
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Where the package is installed, and from where it has gone since."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "their_attention.py").write_text(MECHANISM)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    done = subprocess.run(
        [*pip, *offline, str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode and "bdist_wheel" in done.stderr:
        pytest.skip(
            "setuptools 77 or later is needed to build a package: pip install -U setuptools"
        )
    assert done.returncode == 0, done.stderr
    (source / "their_attention.py").unlink()
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def attnkit(environment, *arguments):
    command = [sys.executable, "-m", "attnkit", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_is_checked_by_name_and_by_module(environment, tmp_path):
    """On all laws, a fake GPU in another process included."""
    ended = attnkit(environment, "check", "their_softcap", "--mask", "causal", "--role", "self")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout
    assert "training step stays on its device" in ended.stdout


def test_its_options_are_recipe_keys(environment):
    ended = attnkit(environment, "show", "their_softcap")
    assert ended.returncode == 0, ended.stderr
    assert "no score is larger." in ended.stdout


@pytest.mark.slow
def test_its_authors_have_the_laws_as_tests(environment, tmp_path):
    (tmp_path / "test_theirs.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "map_rows"]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout
