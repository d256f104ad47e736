"""Interpolation: `${model.dim}` in a recipe is replaced by the value of that key.

Only this file uses OmegaConf, which is imported only for a recipe that contains `${`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from attnkit.recipe.errors import KeyPath, Problem, RecipeError, dotted, key_path
from attnkit.recipe.source import UNREADABLE, Node, node_of, plain

_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_][\w.\[\]]*\}")
_UNESCAPED = re.compile(r"(?<!\\)(\\\\)*\$\{")


def interpolate(root: Node, problems: list[Problem]) -> Node:
    """Replaces `${section.key}` by the value of that key; it keeps the mark of the reference.

    Raises:
        RecipeError: if the recipe becomes too large.
    """
    if not _has_reference(root):
        return root
    from omegaconf import OmegaConf

    allowed = _refuse_resolvers(root, (), problems)
    if not _Expansion(allowed, problems).is_small():
        raise RecipeError(problems)
    config = OmegaConf.create(plain(allowed), flags={"allow_objects": True})
    return _resolved(allowed, config, (), problems)


def escape_interpolation(text: str) -> str:
    """Escapes text so that a `${` in it is read back unchanged."""
    return re.sub(r"(?<!\\)(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


class _Expansion:
    """Computes the size of a recipe after its references are resolved. In a chain of texts that
    each refer to the previous one twice, the size doubles with every link.

    Args:
        root: the recipe.
        problems: receives the key at which it becomes too large.
    """

    def __init__(self, root: Node, problems: list[Problem]) -> None:
        self._root = root
        self._problems = problems
        self._sizes: dict[KeyPath, int] = {}

    def is_small(self) -> bool:
        """False if a value is too large; reports it."""
        before = len(self._problems)
        size = self._size(self._root, ())
        if size > 10 * MAX_EXPANSION:
            self._report(
                self._root, (), f"${{...}} expand to {size:,} characters and values, too many"
            )
        return len(self._problems) == before

    def _size(self, node: Node, path: KeyPath) -> int:
        """Characters and values that a part of the recipe expands to. A part inside itself adds
        nothing: OmegaConf reports circular references.
        """
        if path in self._sizes:
            return self._sizes[path]
        self._sizes[path] = 0
        size = 1
        for key, child in _children(node):
            size += self._size(child, (*path, key))
        if isinstance(node.value, str):
            size += len(node.value)
            if "${" in node.value:
                size += self._size_of_references(node.value, path)
                reason = "${...} expands to" if size > MAX_EXPANSION else None
                if len(node.value) > MAX_REFERRING:
                    reason, size = "a text with ${ has", len(node.value)
                if reason is not None:
                    self._report(node, path, f"{reason} {size:,} characters and values, too many")
                    size = 1
        self._sizes[path] = size
        return size

    def _size_of_references(self, text: str, path: KeyPath) -> int:
        size = 0
        for found in _REFERENCE.finditer(text):
            target = _target(found[0][2:-1], path)
            node = self._root
            for key in target:
                node = dict(_children(node)).get(key)
                if node is None:
                    break
            else:
                size += 1 + self._size(node, target)
        return size

    def _report(self, node: Node, path: KeyPath, message: str) -> None:
        self._problems.append(Problem(node.mark, dotted(path), message))


MAX_EXPANSION = 100_000
"""Largest number of characters and values that one reference may expand to."""

MAX_REFERRING = 10_000
"""Largest number of characters of a text with references, which are parsed slowly, above all
backslashes."""


def _children(node: Node) -> list[tuple[str, Node]]:
    if isinstance(node.value, dict):
        return list(node.value.items())
    if isinstance(node.value, list):
        return [(f"[{i}]", item) for i, item in enumerate(node.value)]
    return []


def _target(reference: str, path: KeyPath) -> KeyPath:
    """`a.b[0]` as keys from the top; a dot in front means the section around `path`."""
    name = reference.lstrip(".")
    dots = len(reference) - len(name)
    keys = key_path(name)
    return (*path[: len(path) - dots], *keys) if dots else keys


def _has_reference(node: Node) -> bool:
    if isinstance(node.value, dict):
        return any(map(_has_reference, node.value.values()))
    if isinstance(node.value, list):
        return any(map(_has_reference, node.value))
    return isinstance(node.value, str) and "${" in node.value


def _refuse_resolvers(node: Node, path: KeyPath, problems: list[Problem]) -> Node:
    """Refuses resolvers, which could write a secret into a run's folder; references are allowed."""
    if isinstance(node.value, dict):
        children = node.value.items()
        return replace(
            node, value={k: _refuse_resolvers(v, (*path, k), problems) for k, v in children}
        )
    if isinstance(node.value, list):
        items = enumerate(node.value)
        return replace(
            node, value=[_refuse_resolvers(v, (*path, f"[{i}]"), problems) for i, v in items]
        )
    # A letter replaces each reference: without it, the texts on both sides would join.
    if not isinstance(node.value, str) or not _UNESCAPED.search(_REFERENCE.sub("x", node.value)):
        return node
    message = (
        "only references to keys such as ${model.dim} are allowed here; "
        "for a literal `${` write `\\${`"
    )
    if "oc.env" in node.value:
        message = (
            "environment variables are not allowed: their values would be written into "
            "the run's folder; pass the value as an override"
        )
    problems.append(Problem(node.mark, dotted(path), message))
    return replace(node, value=UNREADABLE)


def _resolved(node: Node, config: Any, path: KeyPath, problems: list[Problem]) -> Node:
    if isinstance(node.value, dict):
        keys = node.value.items()
        return replace(
            node, value={k: _element(v, config, k, (*path, k), problems) for k, v in keys}
        )
    items = enumerate(node.value)
    return replace(
        node, value=[_element(v, config, i, (*path, f"[{i}]"), problems) for i, v in items]
    )


def _element(node: Node, config: Any, key: Any, path: KeyPath, problems: list[Problem]) -> Node:
    if isinstance(node.value, dict | list):
        return _resolved(node, config[key], path, problems)
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = config[key]
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, RecursionError):
            reason = "it refers to itself"
        message = (
            f"`{node.value}` cannot be resolved: {reason} (it may refer to keys of the recipe only)"
        )
        problems.append(Problem(node.mark, dotted(path), message))
        return replace(node, value=UNREADABLE)
    return node_of(value, node.mark, node.key_mark)
