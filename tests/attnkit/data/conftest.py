import os
from pathlib import Path

import pytest

REAL_DATA = os.environ.get("ATTNKIT_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives every test an empty cache, and no data folder but the one that it names."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ATTNKIT_CACHE", str(folder))
    monkeypatch.delenv("ATTNKIT_DATA", raising=False)
    return folder


@pytest.fixture
def shakespeare_root() -> str:
    if REAL_DATA is None or not Path(REAL_DATA, "tinyshakespeare", "input.txt").is_file():
        pytest.skip("ATTNKIT_DATA names no folder with tinyshakespeare/input.txt")
    return REAL_DATA
