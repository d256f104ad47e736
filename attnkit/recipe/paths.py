"""Finds the files that a recipe names: beside the recipe, or else in the working directory.

This applies to every path that is read, including plugins. Existing paths become absolute, so that
a run records what it read and can be resumed from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from attnkit.data.lookup import matching
from attnkit.recipe.errors import Mark
from attnkit.recipe.source import Node


@dataclass(frozen=True)
class OutputPath:
    """Metadata of an output path: it is relative to the working directory."""


def find(path: str, mark: Mark, root: Mark) -> Path:
    """Finds a file, a folder, or the matches of a pattern.

    Args:
        path: path as written.
        mark: its place. The path of an override is searched in the working directory first, and
            then beside the recipe.
        root: the beginning of the recipe.

    Returns:
        Its absolute path; `path` itself if nothing is found.
    """
    name = Path(path).expanduser()
    for folder in (mark.folder, root.folder, Path()):
        if (folder / name).exists() or matching(folder / name):
            return (folder / name).resolve()
    return name


def absolute_plugins(root: Node) -> Node:
    """Replaces existing plugin files by their absolute paths; modules remain."""
    plugins = root.value.get("plugins")
    if plugins is None or not isinstance(plugins.value, list | str):
        return root
    entries = plugins.value if isinstance(plugins.value, list) else [plugins]
    absolute = [
        replace(entry, value=str(find(entry.value, entry.mark, root.mark)))
        if isinstance(entry.value, str) and entry.value.endswith(".py")
        else entry
        for entry in entries
    ]
    return replace(root, value={**root.value, "plugins": replace(plugins, value=absolute)})
