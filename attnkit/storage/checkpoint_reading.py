"""Reads a checkpoint as plain data; code in a file is never executed."""

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
    """Returns the contents of a checkpoint: dicts, lists, numbers, texts and tensors.

    Args:
        path: the file.
        map_location: device of the tensors, as in `torch.load`.
        mapped: read tensors from the file only when they are accessed.

    Raises:
        CheckpointError: if the file is damaged, not a checkpoint, or not plain data.
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
            f"{path} is damaged, or contains objects other than plain data; it was not loaded, and "
            "nothing in it was executed"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint; restore it, or train the run again"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(f"{path} is not a checkpoint of attnkit: it has no state_dict")
    return checkpoint


def _refuse_compressed(path: Path) -> None:
    """Raises a ValueError for a compressed archive, which may be far larger in memory."""
    # torch.save does not compress.
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("a checkpoint is not compressed")


STATES = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
"""Keys of a checkpoint that a resumed run needs."""


def check_resumable(path: Path, model: nn.Module) -> None:
    """Checks that a run can resume from a checkpoint, before anything of the run is changed.

    Raises:
        CheckpointError: if state is missing, weights do not fit or are not finite, or another
            version of Lightning wrote it.
    """
    checkpoint = read_checkpoint(path, mapped=True)
    if not checkpoint.get("optimizer_states"):
        raise CheckpointError(
            f"{path} has weights without the state of the optimizer, so no run can resume from "
            "it; restore the checkpoint that training wrote"
        )
    missing = [key for key in (*STATES, "global_step") if key not in checkpoint]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it was not written by a run")
    written, here = str(checkpoint.get("pytorch-lightning_version")), version("lightning")
    if written.split(".")[:2] != here.split(".")[:2]:
        raise CheckpointError(
            f"{path} was written with lightning {written}, which lightning {here} may "
            f"read differently; install lightning=={written} to resume"
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
            f"{path} does not fit the recipe: {name} is {_described(found.get(name))} in the file, "
            f"and {_described(expected.get(name))} in the model"
        )
    check_finite(weights, path)


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Checks that weights are plain tensors of finite numbers.

    Raises:
        CheckpointError: if they are not.
    """
    for name, tensor in weights.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not plain or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(
                f"{path} is damaged: {name} is not a dense tensor of real numbers"
            )
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{path} contains weights that are not finite: {name}; use an "
                "earlier checkpoint, or train the run again"
            )


def _described(shape: torch.Size | None) -> str:
    return "missing" if shape is None else f"of shape {tuple(shape)}"
