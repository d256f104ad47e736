"""What all tests share: one thread, and where the real texts lie."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(
    1
)  # small tensors: more threads cost time, and sums then depend on their number


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets; skips the test where nobody named one."""
    folder = os.environ.get("ATTNKIT_DATA")
    if not folder:
        pytest.skip("needs real data: set ATTNKIT_DATA to the folder that holds it")
    return Path(folder)
