"""A recipe: everything that decides a run. `recipe.py` is where to start reading."""

from attnkit.recipe.errors import Problem, RecipeError
from attnkit.recipe.recipe import Recipe, load_recipe, recipe_from_dict
from attnkit.recipe.sections import (
    AblationOptions,
    BudgetOptions,
    CheckpointOptions,
    ClaimOptions,
    LoggingOptions,
    TrainerOptions,
    ValidationOptions,
)

__all__ = [
    "AblationOptions",
    "BudgetOptions",
    "CheckpointOptions",
    "ClaimOptions",
    "LoggingOptions",
    "Problem",
    "Recipe",
    "RecipeError",
    "TrainerOptions",
    "ValidationOptions",
    "load_recipe",
    "recipe_from_dict",
]
