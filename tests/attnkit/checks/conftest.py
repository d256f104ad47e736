"""A folder to write plugins into; what they register is forgotten afterwards."""

import sys
from pathlib import Path

import pytest

from attnkit.registry import ATTENTION, MASKS, POSITIONS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    registries = ATTENTION, MASKS, POSITIONS
    for registry in registries:
        registry.names()
    before, modules = [dict(registry._classes) for registry in registries], set(sys.modules)
    yield tmp_path
    for registry, classes in zip(registries, before, strict=True):
        registry._classes = classes
    for name in set(sys.modules) - modules:
        if name.startswith("attnkit_plugin_"):
            del sys.modules[name]
