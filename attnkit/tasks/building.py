"""Data, model and module of a recipe, by its task; and whether the weights fit in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnkit.hardware import HardwareError, physical_memory_bytes
from attnkit.models.shapes_only import shapes_only
from attnkit.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from attnkit.data.task_data import TaskData
    from attnkit.training.task import Task

FEWEST_FINAL_TOKENS = 65536
"""Validation tokens of the final numbers, where there are so many and nothing else was asked for:
fewer say too little, and so many take seconds.
"""


def build_data(recipe: Recipe) -> Any:
    """The data of a recipe; nothing is read yet."""
    return recipe.definition.build_data(recipe)


def build_model(recipe: Recipe, *sizes: int) -> Any:
    """The model that a recipe describes, with weights drawn from its seed.

    Args:
        recipe: which.
        sizes: the data's `vocab_sizes`.
    """
    return recipe.definition.build_model(recipe, *sizes)


def build_task(recipe: Recipe, model: nn.Module, data: TaskData) -> Task:
    """The model with its losses, its data and its optimizer."""
    return recipe.definition.build_task(recipe, model, data)


def check_size(recipe: Recipe, *sizes: int) -> None:
    """Checks that the weights fit into this machine, before any are made.

    Raises:
        HardwareError: if they do not.
    """
    memory = physical_memory_bytes()
    with shapes_only():
        count = sum(p.numel() for p in build_model(recipe, *sizes).parameters())
    if memory is not None and 4 * count > memory:
        raise HardwareError(
            f"model: {count:,} parameters take {4 * count / 1e9:,.1f} GB in float32, and this "
            f"machine has {memory / 1e9:,.1f} GB; lower model.dim, model.num_layers or the "
            "vocabulary"
        )


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
