"""Puts a recipe's task together: one task, one file beside this one. Building data and model loads
no lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attnkit.hardware import HardwareError, compiles, physical_memory_bytes
from attnkit.models.shapes_only import shapes_only
from attnkit.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from attnkit.tasks.base import Task


FEWEST_FINAL_TOKENS = 65536
"""Validation tokens of the final numbers, where there are so many and nothing else was asked for:
fewer say too little, and so many take seconds.
"""


def build_data(recipe: Recipe) -> Any:
    """The data of the recipe's task; nothing is read yet."""
    return _assembly(recipe).build_data(recipe)


def build_model(recipe: Recipe, *vocab_sizes: int) -> Any:
    """The model that a recipe describes, with weights drawn from its seed."""
    return _assembly(recipe).build_model(recipe, *vocab_sizes)


def check_size(recipe: Recipe, *vocab_sizes: int) -> None:
    """Checks that the weights fit into this machine, before any are made.

    Raises:
        HardwareError: if they do not.
    """
    memory = physical_memory_bytes()
    with shapes_only():
        count = sum(p.numel() for p in build_model(recipe, *vocab_sizes).parameters())
    if memory is not None and 4 * count > memory:
        raise HardwareError(
            f"model: {count:,} parameters take {4 * count / 1e9:,.1f} GB in float32, and this "
            f"machine has {memory / 1e9:,.1f} GB; lower model.dim, model.num_layers or the "
            "vocabulary"
        )


def build_task(recipe: Recipe, model: nn.Module, data: Any) -> Task:
    """The model with its loss, its data and its optimizer."""
    return _assembly(recipe).build_task(recipe, model, data)


def options_of_every_task(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says that every task takes, see `tasks/base.py`."""
    trainer = recipe.trainer
    return {
        "max_steps": trainer.max_steps,
        "accumulate": trainer.accumulate,
        "num_workers": trainer.num_workers,
        "seed": recipe.seed,
        "gradient_clip": trainer.gradient_clip,
        "compile_model": compiles(trainer.compile, trainer.accelerator),
    }


def final_max_tokens(recipe: Recipe, tokens_per_batch: int) -> int | None:
    """Tokens of the validation split that the final numbers are from at the most; None: all.

    Args:
        recipe: which may leave it to us, so that it takes less than a tenth of the training.
        tokens_per_batch: of training.
    """
    asked, trainer = recipe.validation.final_max_tokens, recipe.trainer
    if asked != "auto":
        return asked
    if recipe.validation.max_tokens is None:
        return None
    trained_on = tokens_per_batch * trainer.accumulate * trainer.max_steps
    # A token costs a third of what it does in training, forward and backward. A power of two, so
    # that variants of about the same length are measured on the same text.
    tenth = 1 << max(3 * trained_on // 10, 1).bit_length() - 1
    return max(tenth, recipe.validation.max_tokens, FEWEST_FINAL_TOKENS)


def _assembly(recipe: Recipe) -> Any:
    return importlib.import_module(f"attnkit.assembly.{recipe.task}")
