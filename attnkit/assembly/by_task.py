"""Puts a recipe's task together: one task, one file beside this one. Building data and model loads
no lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attnkit.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from attnkit.tasks.base import Task


def build_data(recipe: Recipe) -> Any:
    """The data of the recipe's task; nothing is read yet."""
    return _assembly(recipe).build_data(recipe)


def build_model(recipe: Recipe, *vocab_sizes: int) -> Any:
    """The model that a recipe describes, with weights drawn from its seed."""
    return _assembly(recipe).build_model(recipe, *vocab_sizes)


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
        "compile_model": trainer.compile,
    }


def _assembly(recipe: Recipe) -> Any:
    return importlib.import_module(f"attnkit.assembly.{recipe.task}")
