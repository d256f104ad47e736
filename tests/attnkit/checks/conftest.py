"""Every test of the checks writes its plugins into a folder of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(plugin_folder) -> Path:
    return plugin_folder
