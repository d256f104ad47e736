"""Stores the last weights of a run, to average them at its end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from attnkit.models.sharding import whole_state

FOLDER = "weights"
"""Folder below the checkpoints."""

AVERAGED = "averaged.ckpt"
"""File in that folder with the mean of the last weights, written at the end of training."""


class WeightHistory(L.Callback):
    """Writes the model's weights after each regular validation, and keeps the last few files.

    The files are beside the checkpoints, so that a killed run continues with them; those from after
    the step at which a run resumes are removed. The extra validation of a run that is stopped
    writes no weights, since an uninterrupted run would not have them.

    Args:
        count: number of files to keep.
        validate_every: steps between validations.
    """

    def __init__(self, count: int, validate_every: int) -> None:
        self.count = count
        self.validate_every = validate_every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Removes the weights of steps that the run will repeat, and the mean of an earlier end."""
        if trainer.is_global_zero:
            (_folder(trainer) / AVERAGED).unlink(missing_ok=True)
            for step, file in _files(_folder(trainer)):
                if step > trainer.global_step:
                    file.unlink()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the weights after a regular validation during training."""
        if trainer.state.fn != "fit" or trainer.global_step % self.validate_every:
            return
        model = pl_module.model
        assert isinstance(model, nn.Module)
        weights = whole_state(model.state_dict(keep_vars=True), keep=trainer.is_global_zero)
        if not trainer.is_global_zero:
            return
        folder = _folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        _save(weights, folder / f"step-{trainer.global_step}.pt")
        for _, file in _files(folder)[: -self.count]:
            file.unlink()


def average(folder: Path) -> tuple[dict[str, Tensor], list[int]] | None:
    """Returns the mean of the weights in a folder, and their steps; None if there are none.

    Args:
        folder: folder of the checkpoints.
    """
    files = _files(folder / FOLDER)
    if not files:
        return None
    mean: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for _, file in files:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        for name, tensor in weights.items():
            dtypes[name] = tensor.dtype
            if tensor.is_floating_point():
                added = tensor.double() / len(files)
                mean[name] = mean[name] + added if name in mean else added
            else:
                mean[name] = tensor
    return {name: t.to(dtypes[name]) for name, t in mean.items()}, [step for step, _ in files]


def write_average(folder: Path, weights: dict[str, Tensor], steps: list[int]) -> None:
    """Writes the result of `average` beside the weights, as a checkpoint of a task."""
    state = {f"model.{name}": tensor for name, tensor in weights.items()}
    _save({"state_dict": state, "averaged_steps": steps}, folder / FOLDER / AVERAGED)


def _save(content: dict[str, Any], file: Path) -> None:
    """Writes a file atomically."""
    part = file.with_name("being-written")
    torch.save(content, part)
    part.replace(file)


def _folder(trainer: L.Trainer) -> Path:
    """Returns the folder of the weights in the run's directory."""
    return Path(trainer.default_root_dir) / "checkpoints" / FOLDER


def _files(folder: Path) -> list[tuple[int, Path]]:
    """Returns the files with their steps, the earliest first."""
    found = [(re.fullmatch(r"step-(\d+)\.pt", file.name), file) for file in folder.glob("*.pt")]
    return sorted((int(match[1]), file) for match, file in found if match)
