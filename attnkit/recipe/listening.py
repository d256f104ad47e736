"""Builds the loggers and callbacks that a recipe names, before its run starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attnkit.errors import UserError
from attnkit.recipe.checks import mark_of
from attnkit.recipe.errors import KeyPath, Problem, RecipeError, dotted
from attnkit.recipe.recipe import Recipe
from attnkit.registry import CALLBACKS, LOGGERS, Registry, Spec, line_of_plugin

_BUILT_IN = {
    "Checkpoint": "a run saves itself, so that it resumes exactly; see the section `checkpoint`",
    "ProgressBar": "a run shows its own progress; remove it",
}
"""Lightning's callback classes that every run has already, and what to do instead."""


def build_loggers(recipe: Recipe) -> list[tuple[str, Any]]:
    """Returns pairs of a name and its logger. Opens no connection.

    Raises:
        RecipeError: if a package is not installed, an option is wrong, or a name occurs twice.
    """
    named = recipe.logging.to
    specs = [named] if isinstance(named, Spec) else list(named)
    seen: set[str] = set()
    built, problems = [], []
    for i, spec in enumerate(specs):
        path = ("logging", "to") if isinstance(named, Spec) else ("logging", "to", f"[{i}]")
        if spec.name in seen and not LOGGERS.is_path(spec.name):
            problems.append(_problem(recipe, path, f"{spec.name} is listed twice"))
            continue
        seen.add(spec.name)
        missing = [one for one in getattr(LOGGERS.get(spec.name), "packages", ()) if _lacks(one)]
        if missing:
            message = f"{spec.name} is not installed: pip install {' '.join(missing)}"
            problems.append(_problem(recipe, path, message))
            continue
        built.append((spec.name, _build(LOGGERS, spec, recipe, path, problems)))
    if problems:
        raise RecipeError(problems)
    return built


def build_callbacks(recipe: Recipe) -> list[Any]:
    """Returns the callbacks that a recipe names.

    Raises:
        RecipeError: if an option is wrong, or a run does what the callback would do.
    """
    built, problems = [], []
    for i, spec in enumerate(recipe.callbacks):
        path = ("callbacks", f"[{i}]")
        of_lightning = [
            one.__name__
            for one in CALLBACKS.get(spec.name).__mro__
            if one.__module__.startswith(("lightning.", "pytorch_lightning."))
        ]
        reason = next((why for name, why in _BUILT_IN.items() if name in of_lightning), None)
        if reason is not None:
            problems.append(
                _problem(recipe, path, f"{spec.name} cannot be a callback of a recipe: {reason}")
            )
            continue
        built.append(_build(CALLBACKS, spec, recipe, path, problems))
    if problems:
        raise RecipeError(problems)
    return built


@contextmanager
def naming_callbacks(recipe: Recipe, callbacks: Sequence[Any]) -> Iterator[None]:
    """Names the callback of the recipe that raised an exception in the block.

    Args:
        recipe: recipe of the callbacks.
        callbacks: those that `build_callbacks` returned, in the same order.

    Raises:
        RecipeError: if a hook of a callback raised an exception. A `UserError` and an
            out-of-memory error pass unchanged.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        owners = [id(frame.f_locals.get("self")) for frame, _ in frames]
        index = next((i for i, one in enumerate(callbacks) if id(one) in owners), None)
        if index is None or type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        message = str(error).strip().partition("\n")[0]
        if not message or isinstance(error, KeyError):  # its message is only the key
            message = f"{type(error).__name__} {message}".strip()
        message = f"{recipe.callbacks[index].name}: {message}"
        if line := line_of_plugin(error):
            message += f" (in {line})"
        raise RecipeError([_problem(recipe, ("callbacks", f"[{index}]"), message)]) from error


def _lacks(package: str) -> bool:
    """True if a package, given by its name for pip, is not installed."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:  # it may be importable all the same
        return importlib.util.find_spec(package.replace("-", "_")) is None
    return False


def _build(
    registry: Registry[Any], spec: Spec, recipe: Recipe, path: KeyPath, problems: list[Problem]
) -> Any:
    try:
        return registry.build(spec)
    except Exception as error:  # a class of another package may raise any exception
        message = str(error).strip().partition("\n")[0]
        problems.append(_problem(recipe, path, f"{spec.name}: {message}"))
        return None


def _problem(recipe: Recipe, path: KeyPath, message: str) -> Problem:
    return Problem(mark_of(recipe.source, path), dotted(path), message)
