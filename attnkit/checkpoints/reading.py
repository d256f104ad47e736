"""Reads a checkpoint as plain data: nothing in a file is ever run."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from attnkit.checkpoints.errors import CheckpointError


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """What a checkpoint file holds: dicts, lists, numbers, texts and tensors.

    Args:
        path: the file.
        map_location: where tensors go, as in `torch.load`.

    Raises:
        CheckpointError: if the file is damaged, no checkpoint, or holds more than plain data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickles, which are refused below
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds objects other than plain data; it was not loaded, and "
            "nothing in it was run"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint; restore it, or train the run again"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(f"{path} is no checkpoint of attnkit: it holds no state_dict")
    return checkpoint
