"""Reads a checkpoint as plain data: nothing in a file is ever run."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from attnkit.errors import CheckpointError


def read_checkpoint(
    path: Path, map_location: Any = "cpu", *, mapped: bool = False
) -> dict[str, Any]:
    """What a checkpoint file holds: dicts, lists, numbers, texts and tensors.

    Args:
        path: the file.
        map_location: where tensors go, as in `torch.load`.
        mapped: leave tensors in the file until they are looked at.

    Raises:
        CheckpointError: if the file is damaged, no checkpoint, or holds more than plain data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickles, which are refused below
            _refuse_compressed(path)
            checkpoint = torch.load(
                path, map_location=map_location, weights_only=True, mmap=mapped or None
            )
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


def _refuse_compressed(path: Path) -> None:
    """Raises a ValueError for an archive that would take more memory than it has bytes: torch
    compresses nothing.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("a checkpoint is not compressed")


STATES = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
"""What a run goes on from, besides its weights."""


def check_resumable(path: Path, model: nn.Module) -> None:
    """Checks that a run can go on from a checkpoint, before anything of the run is touched.

    Raises:
        CheckpointError: if the state of the optimizer or another one is missing, weights are of
            other shapes or not finite, or another Lightning wrote it.
    """
    checkpoint = read_checkpoint(path, mapped=True)
    if not checkpoint.get("optimizer_states"):
        raise CheckpointError(
            f"{path} holds weights without the state of the optimizer, so no run can go on from "
            "it; restore the checkpoint that training wrote"
        )
    missing = [key for key in (*STATES, "global_step") if key not in checkpoint]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it was not written by a run")
    written, here = str(checkpoint.get("pytorch-lightning_version")), version("lightning")
    if written.split(".")[:2] != here.split(".")[:2]:
        raise CheckpointError(
            f"{path} was written with lightning {written}, whose checkpoints lightning {here} may "
            f"read otherwise; install lightning=={written} to resume"
        )
    prefix = "model."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: getattr(tensor, "shape", None) for name, tensor in weights.items()}
    if found != expected:
        names = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
        name = names[0]
        raise CheckpointError(
            f"{path} does not fit the recipe: {name} has the shape {_words(found.get(name))}, and "
            f"in the model {_words(expected.get(name))}"
        )
    check_finite(weights, path)


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Checks that weights hold no NaN and no infinity.

    Raises:
        CheckpointError: if they do.
    """
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{path} holds weights that are not finite (NaN or infinity): {name}; take an "
                "earlier checkpoint, or train the run again"
            )


def _words(shape: torch.Size | None) -> str:
    return "of nothing" if shape is None else str(tuple(shape))
