"""The recipe of a stored run or an exported file, whose plugins run only if they are trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnkit.recipe.errors import Mark, Problem, RecipeError
from attnkit.recipe.recipe import Recipe, load_recipe
from attnkit.recipe.source import UNREADABLE
from attnkit.registry import TASKS, Spec
from attnkit.storage import run_directory
from attnkit.storage.plugin_trust import StoredPlugins


def stored_recipe(
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    trust_plugins: bool = False,
    plugins: StoredPlugins | None = None,
) -> Recipe:
    """Reads a run's recipe to use the trained model; what only training needs may be missing.

    Args:
        directory: directory of the run.
        overrides: as for `load_recipe`.
        trust_plugins: also run plugins that this user has never run.
        plugins: imports the plugins; None: those in the directory.

    Raises:
        RunDirectoryError: if the directory contains no run.
        UntrustedPluginError: if the model needs plugins that this user has never run.
        RecipeError: if the recipe cannot be read, or a plugin is missing.
    """
    recipe, plugins = _read(directory, overrides, trust_plugins, plugins)
    if recipe.task not in TASKS.names():
        plugins.demand()
    needed = recipe.definition.loads_with
    if any(_is_incomplete(getattr(recipe, section)) for section in needed):
        plugins.demand()
    return recipe


def recipe_to_resume(
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    trust_plugins: bool = False,
    allow_changes: bool = False,
) -> Recipe:
    """Reads a run's recipe to resume it. A plugin file that is still where it was is read from
    there, so that a change in it is noticed.

    Raises:
        RunDirectoryError: if the directory contains no run.
        UntrustedPluginError: if it needs plugins that this user has never run.
        ChangedPluginError: if a plugin changed, unless `allow_changes`.
        RecipeError: if the recipe cannot be read, or a plugin is missing.
    """
    run_directory.recipe_of(directory)  # raises if it is not a run
    plugins = StoredPlugins.of_run(
        directory, trust=trust_plugins, prefer_originals=True, allow_changes=allow_changes
    )
    recipe, plugins = _read(directory, overrides, trust_plugins, plugins)
    plugins.demand()
    return recipe


def written_recipe(directory: Path) -> Recipe:
    """Reads a run's recipe to inspect it, without importing plugins."""
    return load_recipe(run_directory.recipe_of(directory), loader=lambda name, folder: False)


def _read(
    directory: Path, overrides: Sequence[str], trust: bool, plugins: StoredPlugins | None
) -> tuple[Recipe, StoredPlugins]:
    path = run_directory.recipe_of(directory)
    plugins = plugins or StoredPlugins.of_run(directory, trust=trust)
    try:
        return load_recipe(path, overrides, loader=plugins.load), plugins
    except RecipeError as error:
        mark = Mark(str(path))
        missing = [Problem(mark, "plugins", words) for words in plugins.missing_packages()]
        raise RecipeError([*error.problems, *missing]) from None


def _is_incomplete(value: Any) -> bool:
    """True if a part of a recipe could not be read for lack of a plugin."""
    if isinstance(value, Spec):
        value = value.options
    elif dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping | list | tuple):
        return any(map(_is_incomplete, value.values() if isinstance(value, Mapping) else value))
    return value is UNREADABLE
