"""Weights in one safetensors file, with the texts that describe them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attnkit.errors import CheckpointError

SUFFIX = ".safetensors"
_PREFIX = "attnkit/"


def write_export(
    path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Writes a file atomically. Tensors that share memory are written once.

    Args:
        path: output file; its suffix is `.safetensors`.
        tensors: name -> weight.
        texts: file name -> content, such as `recipe.yaml`; stored in the file's header.
        overwrite: replace an existing file.

    Raises:
        CheckpointError: if the suffix is wrong, the file exists, or it cannot be written.
    """
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path} must end in {SUFFIX}, the only supported format")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists; replace it with --overwrite")
    first: dict[int, str] = {}
    unique: dict[str, Tensor] = {}
    header = {f"{_PREFIX}file/{name}": text for name, text in texts.items()}
    for name, tensor in tensors.items():
        original = first.setdefault(tensor.data_ptr(), name)
        if original == name or tensor.shape != unique[original].shape:
            unique[name] = tensor.contiguous() if original == name else tensor.clone()
        else:
            header[f"{_PREFIX}same/{name}"] = original
    part = path.with_name(f".{path.name}.part")
    try:
        save_file(unique, part, header)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def read_export(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors and texts of a file that `write_export` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged, or not from attnkit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    texts = {
        name.removeprefix(f"{_PREFIX}file/"): text
        for name, text in header.items()
        if name.startswith(f"{_PREFIX}file/")
    }
    if not texts:
        raise CheckpointError(f"{path} was not exported by attnkit: it contains no recipe")
    for name, original in header.items():
        if name.startswith(f"{_PREFIX}same/"):
            if original not in tensors:
                raise CheckpointError(f"{path} is damaged: {name} refers to a missing weight")
            tensors[name.removeprefix(f"{_PREFIX}same/")] = tensors[original]
    return tensors, texts
