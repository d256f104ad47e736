"""Finds the files that a recipe names: beside the recipe, or else in the working directory.

This holds for every path that is read, plugins included. Paths that are found become absolute, so
that a run records what it read and can be resumed from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from attnkit.data.lookup import matching
from attnkit.recipe.errors import Mark
from attnkit.recipe.source import Node


@dataclass(frozen=True)
class Written:
    """Metadata of a path that is written to: it is relative to the working directory."""


def found(path: str, mark: Mark, root: Mark) -> Path:
    """Looks for a file, a folder, or what a pattern matches.

    Args:
        path: as it is written.
        mark: where it is written. The path of an override is looked for in the working directory
            first, and then beside the recipe.
        root: where the recipe begins.

    Returns:
        Its absolute path; `path` itself, where nothing is found.
    """
    name = Path(path).expanduser()
    for folder in (mark.folder, root.folder, Path()):
        if (folder / name).exists() or matching(folder / name):
            return (folder / name).resolve()
    return name


def absolute_plugins(root: Node) -> Node:
    """Replaces the plugin files that are found by their absolute paths; modules are left alone."""
    plugins = root.value.get("plugins")
    if plugins is None or not isinstance(plugins.value, list | str):
        return root
    entries = plugins.value if isinstance(plugins.value, list) else [plugins]
    absolute = [
        replace(entry, value=str(found(entry.value, entry.mark, root.mark)))
        if isinstance(entry.value, str) and entry.value.endswith(".py")
        else entry
        for entry in entries
    ]
    return replace(root, value={**root.value, "plugins": replace(plugins, value=absolute)})
