"""Merges a recipe: the files that it extends, its own file, overrides.

Nodes keep their marks, so that each problem is reported with its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnkit.recipe.errors import (
    KeyPath,
    Mark,
    Problem,
    RecipeError,
    dotted,
    index_of,
    key_path,
)
from attnkit.recipe.shipped import located
from attnkit.recipe.source import UNREADABLE, Node, read_file, read_value

NOT_INHERITED = ("name", "variant")
"""Keys that a recipe does not inherit, since they name the run's folder."""

_OVERRIDE_RANK = 1000
_MAX_PARENTS = 32
_KEY = re.compile(r"[^\s.=~]+(\.[^\s.=~]+)*")


def read_layers(path: Path, problems: list[Problem]) -> Node:
    """Reads a recipe file and what it extends, merged.

    Raises:
        RecipeError: if a file cannot be read, or recipes extend each other in a circle.
    """
    return _Files(problems).read(path, ())


def merge(base: Node, over: Node) -> Node:
    """Merges `over` into `base`: mappings are merged recursively, everything else is replaced.

    A mapping with another `name` replaces the whole base mapping: options of one mechanism mean
    nothing to another. A mapping of indices (`[0]`, `[1]`, ...) changes elements of a list.
    """
    if isinstance(base.value, list) and _has_indices(over.value):
        elements = _merged(_by_index(base.value), over.value)
        return replace(base, value=list(elements.values()))
    if isinstance(over.value, dict) and isinstance(base.value, str):
        base = _named(base)
    elif isinstance(over.value, str) and isinstance(base.value, dict) and "name" in base.value:
        over = _named(over)
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    names = [node.value["name"].value for node in (base, over) if "name" in node.value]
    if len(names) == 2 and names[0] != names[1]:
        return over
    return replace(base, value=_merged(base.value, over.value))


def apply_overrides(root: Node, overrides: Sequence[str], problems: list[Problem]) -> Node:
    """Applies `key=value` and `~key`. Invalid ones are reported in `problems` and skipped."""
    changes: dict[KeyPath, Node | Mark] = {}
    seen: dict[KeyPath, str] = {}
    for position, text in enumerate(overrides):
        mark = Mark(f"override {text}", rank=_OVERRIDE_RANK + position)
        try:
            path, value = _read_override(text, mark, problems)
            if path in seen:
                raise _failure(mark, dotted(path), f"this key is in `{seen[path]}` already")
        except RecipeError as error:
            problems += error.problems
            continue
        seen[path] = text
        changes[path] = mark if value is None else value
    return change(root, changes, problems)


def change(root: Node, changes: Mapping[KeyPath, Node | Mark], problems: list[Problem]) -> Node:
    """Changes a recipe: removes keys, then sets keys.

    Args:
        root: the recipe.
        changes: key -> its new value, or the place of a change that removes the key.
        problems: receives a problem for each change that is impossible and so skipped.
    """
    changed = {path: value for path, value in changes.items() if isinstance(value, Node)}
    for path, mark in changes.items():
        if isinstance(mark, Mark):
            root = _without(root, path, (), mark, problems, _written_keys(root, ()))
    layer: dict[str, Node] = {}
    for path in sorted(changed, key=len):  # a section before its keys, whatever the order
        layer = _merged(layer, _nested(path, changed[path]))
    return replace(
        root, value=_merged(root.value, _without_list_keys(root.value, layer, (), problems))
    )


def read_changes(written: Node, problems: list[Problem]) -> dict[KeyPath, Node | Mark]:
    """Reads `{section.key: value, ~section.key: null}`, the form of overrides in a file.

    Invalid keys are reported in `problems` and skipped.
    """
    changes: dict[KeyPath, Node | Mark] = {}
    for text, value in written.value.items():
        key = text.removeprefix("~")
        if not _KEY.fullmatch(key):
            message = f"`{key}` is not a key; write section.key, such as model.dim"
            problems.append(Problem(value.key_mark, text, message))
        elif text == key:
            changes[key_path(key)] = value
        elif value.value is not None:
            message = f"~ removes a key and takes no value; write {text}: null or {key}: ..."
            problems.append(Problem(value.mark, text, message))
        else:
            changes[key_path(key)] = value.key_mark
    return changes


def override_key(override: str) -> str:
    """The key that an override sets or removes: `model.dim` for `model.dim=8` and `~model.dim`."""
    return override.removeprefix("~").partition("=")[0]


class _Files:
    """The files of one recipe. Each is read once, in the order of their names in the recipe."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems
        self._read: dict[Path, Node] = {}
        self._merged: dict[Path, Node] = {}

    def read(self, path: Path, below: tuple[Path, ...]) -> Node:
        """Returns a file merged with those that it extends; `below`: the files that extend it."""
        resolved = path.resolve()
        if resolved not in self._merged:  # a file that several files extend is merged once
            self._merged[resolved] = self._with_parents(path, below)
        return self._merged[resolved]

    def _with_parents(self, path: Path, below: tuple[Path, ...]) -> Node:
        node = self._read_once(path)
        if not isinstance(node.value, dict):
            message = "a recipe is a mapping of keys to values, such as `model: {dim: 128}`"
            raise RecipeError([Problem(node.mark, "", message)])
        merged: dict[str, Node] = {}
        for parent in self._parents(node, (*below, path)):
            inherited = {k: v for k, v in parent.value.items() if k not in NOT_INHERITED}
            merged = _merged(merged, inherited)
        keys = {key: value for key, value in node.value.items() if key != "extends"}
        return replace(node, value=_merged(merged, keys))

    def _read_once(self, path: Path) -> Node:
        resolved = path.resolve()
        if resolved not in self._read:
            self._read[resolved] = read_file(path, len(self._read), self._problems)
        return self._read[resolved]

    def _parents(self, node: Node, below: tuple[Path, ...]) -> list[Node]:
        extends = node.value.get("extends")
        if extends is None or extends.value is UNREADABLE:
            return []
        parents: list[Node] = []
        names = extends.value if isinstance(extends.value, list) else [extends]
        if len(names) > _MAX_PARENTS or len(below) > _MAX_PARENTS:
            message = f"more than {_MAX_PARENTS} files, side by side or in a chain"
            raise self._failure(extends, message)
        for entry in names:
            if not isinstance(entry.value, str):
                raise self._failure(entry, "expected the name of a recipe file, or a list of them")
            beside = below[-1].parent / entry.value
            path = beside if beside.is_file() else located(Path(entry.value))
            if not path.is_file():
                kit = Path(entry.value).stem
                hint = f"; the recipe of the kit is `{kit}`" if located(Path(kit)).is_file() else ""
                raise self._failure(entry, f"there is no recipe file {beside}{hint}")
            if path.resolve() in [other.resolve() for other in below]:
                circle = " -> ".join(other.name for other in (*below, path))
                raise self._failure(entry, f"recipes extend each other in a circle: {circle}")
            parents.append(self.read(path, below))
        return parents

    def _failure(self, entry: Node, message: str) -> RecipeError:
        return RecipeError([Problem(entry.mark, "extends", message)])


def _merged(base: dict[str, Node], over: dict[str, Node]) -> dict[str, Node]:
    added = {key: merge(base[key], node) if key in base else node for key, node in over.items()}
    return {**base, **added}


def _named(node: Node) -> Node:
    return replace(node, value={"name": node})


def _failure(mark: Mark, key: str, message: str) -> RecipeError:
    return RecipeError([Problem(mark, key, message)])


def _read_override(text: str, mark: Mark, problems: list[Problem]) -> tuple[KeyPath, Node | None]:
    removing = text.startswith("~")
    key, equals, written = text.removeprefix("~").partition("=")
    if not removing and not equals:
        words = text.split()
        remedy = f"; write {words[0]}={words[1]}" if len(words) == 2 else ""
        raise _failure(mark, "", f"expected key=value, or ~key to remove a key{remedy}")
    if removing and equals:
        raise _failure(mark, "", f"~ removes a key and takes no value; write ~{key} or {text[1:]}")
    if not _KEY.fullmatch(key):
        what = f"`{key}` is not a key" if key else "the key is missing"
        raise _failure(mark, "", f"{what}; write section.key=value, such as model.dim=64")
    path = key_path(key)
    if path[0] == "extends":
        raise _failure(mark, key, "`extends` belongs in a recipe file and cannot be an override")
    if removing:
        return path, None
    if not written.strip():
        raise _failure(mark, key, f"there is nothing after `=`; write {key}=null or {key}=''")
    return path, read_value(written, path, mark, problems)


def _nested(path: KeyPath, value: Node) -> dict[str, Node]:
    for key in reversed(path[1:]):
        value = Node({key: value}, value.mark, value.key_mark)
    return {path[0]: value}


def _written_keys(node: Node, path: KeyPath) -> dict[str, str]:
    """Key of any section -> its full dotted key."""
    children = node.value if isinstance(node.value, dict) else {}
    below = [_written_keys(child, (*path, key)) for key, child in children.items()]
    keys = {key: dotted((*path, key)) for key in children}
    return {key: whole for keys in (*below[::-1], keys) for key, whole in keys.items()}


def _without(
    node: Node,
    path: KeyPath,
    done: KeyPath,
    mark: Mark,
    problems: list[Problem],
    written: Mapping[str, str],
) -> Node:
    key, rest = path[0], path[1:]
    elements = _by_index(node.value) if isinstance(node.value, list) else {}
    children = node.value if isinstance(node.value, dict) else elements
    if key not in children:
        near = difflib.get_close_matches(key, [*children, *written], n=1)
        meant = near[0] if near and near[0] in children else written[near[0]] if near else ""
        message = f"there is no such key to remove{f'; did you mean `{meant}`?' * bool(near)}"
        problems.append(Problem(mark, dotted((*done, *path)), message))
        return node
    remaining = {other: child for other, child in children.items() if other != key}
    if rest:
        changed = _without(children[key], rest, (*done, key), mark, problems, written)
        remaining = {**children, key: changed}
    return replace(node, value=list(remaining.values()) if elements else remaining)


def _by_index(elements: list[Node]) -> dict[str, Node]:
    """The elements of a list as a mapping: `[0]`, `[1]`, ... -> element."""
    return {f"[{i}]": element for i, element in enumerate(elements)}


def _has_indices(value: Any) -> bool:
    """True for a mapping whose keys are indices of a list."""
    return isinstance(value, dict) and bool(value) and None not in map(index_of, value)


def _without_list_keys(
    base: dict[str, Node], over: dict[str, Node], path: KeyPath, problems: list[Problem]
) -> dict[str, Node]:
    """Removes and reports keys that do not fit an existing list: a name, which would replace the
    list by a mapping, and an index beyond its end.
    """
    remaining: dict[str, Node] = {}
    for key, child in over.items():
        below = base[key].value if key in base else None
        name = dotted((*path, key))
        elements = _by_index(below) if isinstance(below, list) else {}
        if _has_indices(child.value):
            beyond = next((index for index in child.value if index not in elements), None)
            if beyond is not None:
                found = f"has {len(elements)} elements" if elements else "is not a list"
                message = f"there is no such element; {name} {found}"
                problems.append(Problem(child.mark, f"{name}{beyond}", message))
                continue
        elif (
            isinstance(child.value, dict) and isinstance(below, list) and "name" not in child.value
        ):
            message = (
                f"this is a list; an override sets it as a whole: {name}=[...], or one element: "
                f"{name}[0]=..."
            )
            problems.append(Problem(child.mark, name, message))
            continue
        if isinstance(child.value, dict) and isinstance(below, dict | list):
            inner = below if isinstance(below, dict) else elements
            child = replace(
                child, value=_without_list_keys(inner, child.value, (*path, key), problems)
            )
        remaining[key] = child
    return remaining
