"""Weights in shares."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_shares.py")


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_as_one_that_holds_them(tmp_path):
    """Every mechanism, AdamW and Muon: norms, steps, the whole copy, saving and loading."""
    command = [sys.executable, "-W", "error::UserWarning", SCRIPT]
    other, own = (
        subprocess.Popen([*command, rank, tmp_path / "store"], stderr=subprocess.PIPE, text=True)
        for rank in "10"
    )
    try:
        said = [process.communicate(timeout=300)[1] for process in (own, other)]
    finally:
        own.kill()
        other.kill()
    assert (own.returncode, other.returncode) == (0, 0), "\n".join(said)
