"""Builds the data, model and `Task` of a recipe, and checks that the weights fit in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnkit.hardware.devices import HardwareError, physical_memory_bytes
from attnkit.models.shapes_only import shapes_only
from attnkit.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from attnkit.data.task_data import TaskData
    from attnkit.training.task import Task

FEWEST_FINAL_TOKENS = 65536
"""Smallest number of validation tokens for the final metrics with `auto`, if the split has so many.
They take seconds.
"""


def build_data(recipe: Recipe) -> Any:
    """Returns the data of a recipe; reads nothing yet."""
    return recipe.definition.build_data(recipe)


def build_model(recipe: Recipe, *sizes: int) -> Any:
    """Returns the model of a recipe, initialised from its seed.

    Args:
        recipe: the recipe.
        sizes: the data's `vocab_sizes`.
    """
    return recipe.definition.build_model(recipe, *sizes)


def build_task(recipe: Recipe, model: nn.Module, data: TaskData) -> Task:
    """Returns the `Task` of a recipe."""
    return recipe.definition.build_task(recipe, model, data)


def check_size(recipe: Recipe, *sizes: int) -> None:
    """Checks that the weights fit in memory, without allocating them.

    Raises:
        HardwareError: if they do not.
    """
    memory = physical_memory_bytes()
    with shapes_only():
        count = sum(p.numel() for p in build_model(recipe, *sizes).parameters())
    if memory is not None and 4 * count > memory:
        raise HardwareError(
            f"model: {count:,} parameters take {4 * count / 1e9:,.1f} GB in float32, but this "
            f"machine has {memory / 1e9:,.1f} GB; lower model.dim, model.num_layers or the "
            "vocabulary size"
        )


def final_max_tokens(recipe: Recipe, tokens_per_batch: int) -> int | None:
    """Returns the largest number of validation tokens for the final metrics; None: all.

    Args:
        recipe: with `validation.final_max_tokens: auto`, they take less than a tenth of the
            training time.
        tokens_per_batch: number of tokens per training batch.
    """
    requested, trainer = recipe.validation.final_max_tokens, recipe.trainer
    if requested != "auto":
        return requested
    if recipe.validation.max_tokens is None:
        return None
    trained_on = tokens_per_batch * trainer.accumulate * trainer.max_steps
    # A token costs a third of what it does in training, forward and backward. A power of two, so
    # that variants of about the same length are measured on the same text.
    tenth = 1 << max(3 * trained_on // 10, 1).bit_length() - 1
    return max(tenth, recipe.validation.max_tokens, FEWEST_FINAL_TOKENS)
