"""A folder to write plugins into; what they register is forgotten afterwards."""

import sys
from pathlib import Path

import pytest

from attnkit.registry import ATTENTION


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    ATTENTION.names()
    before, modules = dict(ATTENTION._classes), set(sys.modules)
    yield tmp_path
    ATTENTION._classes = before
    for name in set(sys.modules) - modules:
        if name.startswith("attnkit_plugin_"):
            del sys.modules[name]
