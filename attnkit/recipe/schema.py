"""Checks recipe nodes against the annotations of options; returns typed values with all defaults.

The annotations are those of `__init__`: `int`, `float`, `str`, `bool`, `Path`, `Literal[...]`,
unions, lists, tuples, dataclasses, and `Annotated[Spec, MASKS]` for a registered name with its
options. Values are not converted, with one exception: `128` is accepted where a float is
expected. `3.0` is not a whole number, and `true` is not a number.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnkit.recipe.annotations import Kind, Pattern, Range, kinds_of, mismatch
from attnkit.recipe.errors import KeyPath, Mark, Problem, dotted, index_of
from attnkit.recipe.paths import OutputPath, find
from attnkit.recipe.source import UNREADABLE, Node, node_of, plain
from attnkit.registry import (
    LEFT_OUT,
    REQUIRED,
    Option,
    Registry,
    RegistryError,
    Spec,
    options_of,
    positional_option,
    suggest,
)

_MAX_INT = 2**63 - 1

_MIN_SIMILARITY = 0.6
"""Least similarity (`SequenceMatcher.ratio`) of a key and its misspelling."""

_OWN_SECTION = 0.15
_NESTED_SECTION = 0.1
"""Added to the similarity of a key in the section of the unknown key, and in the sections above and
below it."""


@dataclass
class Checker:
    """Checks nodes; problems are collected, not raised.

    Args:
        options: the options of the whole recipe.
        root: the whole recipe.
        problems: receives what is wrong.
        all_names_known: False if a plugin failed to load: it may register unknown names.
    """

    options: Mapping[str, Option]
    root: Node
    problems: list[Problem] = field(default_factory=list)
    all_names_known: bool = True

    def check_all(self) -> dict[str, Any]:
        """Checks the whole recipe; the returned values are valid if there is no problem."""
        return self._options(self.root.value, self.options, self.root.key_mark, ())

    def check(
        self, annotation: Any, node: Node, path: KeyPath, metadata: tuple[Any, ...] = ()
    ) -> Any:
        """Returns the typed value of a node, or `UNREADABLE` after reporting its problem.

        Args:
            annotation: what the value must be.
            node: the value as written.
            path: its place in the recipe.
            metadata: metadata around the annotation that applies inside it (bounds, a registry).
        """
        if node.value is UNREADABLE:
            return UNREADABLE
        kinds = kinds_of(annotation, metadata)
        kind = next((kind for kind in kinds if kind.fits(node.value)), None)
        if kind is None:
            return self._refuse(node.mark, path, mismatch(kinds, node.value))
        if kind.type is Spec:
            return self._spec(kind, node, path)
        if kind.type is Any:
            return plain(node)
        if kind.is_list:
            return self._list(kind, node, path)
        if kind.is_mapping:
            return self._mapping(kind, node, path)
        return self._scalar(kind, node, path)

    def _scalar(self, kind: Kind, node: Node, path: KeyPath) -> Any:
        value: Any = node.value
        if kind.type is float:
            value = float(value)
            if not math.isfinite(value):
                return self._refuse(node.mark, path, f"expected a finite number, got {value}")
        if kind.type is int and abs(value) > _MAX_INT:
            return self._refuse(node.mark, path, f"{value} is too large for a 64-bit integer")
        bounds = Pattern if kind.type is str else Range
        if kind.type in (int, float, str):
            for limit in kind.metadata:
                fault = limit.fault(value) if isinstance(limit, bounds) else None
                if fault is not None:
                    return self._refuse(node.mark, path, fault)
        if kind.type is not Path:
            return value
        is_read = not any(isinstance(item, OutputPath) for item in kind.metadata)
        return find(value, node.mark, self.root.mark) if is_read else Path(value)

    def _list(self, kind: Kind, node: Node, path: KeyPath) -> Any:
        elements = kind.arguments
        if kind.origin is tuple and elements[-1] is not Ellipsis:
            if len(node.value) != len(elements):
                message = f"expected {len(elements)} values, got {len(node.value)}"
                return self._refuse(node.mark, path, message)
        else:
            elements = elements[:1] * len(node.value)
        values = [
            self.check(element, item, (*path, f"[{i}]"), kind.metadata)
            for i, (element, item) in enumerate(zip(elements, node.value, strict=True))
        ]
        return tuple(values) if kind.origin is tuple else values

    def _mapping(self, kind: Kind, node: Node, path: KeyPath) -> Any:
        cls = kind.options_class
        if cls is None:
            _, element = kind.arguments or (str, Any)
            if not dataclasses.is_dataclass(element):
                return plain(node)
            items = node.value.items()
            return {key: self.check(element, child, (*path, key)) for key, child in items}
        num_before = len(self.problems)
        values = self._options(node.value, options_of(cls), node.key_mark, path)
        if not dataclasses.is_dataclass(kind.type):
            return values
        return cls(**values) if len(self.problems) == num_before else UNREADABLE

    def _spec(self, kind: Kind, node: Node, path: KeyPath) -> Any:
        registry = kind.registry
        if registry is None:
            raise TypeError(
                f"{dotted(path)} is a Spec without a registry; write Annotated[Spec, <registry>]"
            )
        children = node.value if isinstance(node.value, dict) else {"name": node}
        if "name" not in children:
            known = ", ".join(registry.names())
            message = f"the name of the {registry.kind} is missing; write {{name: ...}}"
            return self._refuse(node.key_mark, path, f"{message} (known: {known})")
        name_path = (*path, "name") if isinstance(node.value, dict) else path
        name = self.check(str, children["name"], name_path)
        if name is UNREADABLE:
            return UNREADABLE
        if name not in registry:
            if self.all_names_known:
                self._refuse(children["name"].mark, name_path, _unknown_name(registry, name))
            return UNREADABLE
        try:
            options = registry.options(name)
        except RegistryError as error:
            return self._refuse(children["name"].mark, name_path, str(error))
        given = {key: child for key, child in children.items() if key != "name"}
        cls = registry.get(name)
        return Spec(name, self._options(given, options, node.key_mark, path, cls))

    def _options(
        self,
        given: Mapping[str, Node],
        options: Mapping[str, Option],
        mark: Mark,
        path: KeyPath,
        cls: type | None = None,
    ) -> dict[str, Any]:
        for key, child in given.items():
            if key not in options:
                message = self._unknown_key((*path, key), options, given)
                why = "" if cls is None else positional_option(cls, key)
                self._refuse(
                    child.key_mark, (*path, key), f"unknown key; {why}" if why else message
                )
        values: dict[str, Any] = {}
        for key, option in options.items():
            if key in given:
                node = given[key]
            elif option.default is REQUIRED:
                summary = option.help.partition(". ")[0]
                message = "this required key is missing" + (f": {summary}" if summary else "")
                self._refuse(mark, (*path, key), message)
                continue
            elif option.default is LEFT_OUT:
                continue
            else:
                node = node_of(option.default, mark)
            values[key] = self.check(option.annotation, node, (*path, key))
        return values

    def _unknown_key(
        self, path: KeyPath, options: Mapping[str, Option], given: Mapping[str, Node]
    ) -> str:
        key, section = path[-1], dotted(path[:-1])
        known = f" (known: {', '.join(sorted(options)) or 'none'})"
        if "." in key:
            return f"unknown key; dotted keys are for overrides, nest them in a file{known}"
        everywhere = list(_all_keys(self.options, self.root.value, ()))
        parents = [parent for name, parent in everywhere if name == key]
        if parents:
            places = " or ".join(f"`{parent}`" for parent in parents[:3])
            place = f"under {places}" if parents[0] else "at the top"
            return f"unknown key; it belongs {place}{known}"

        def similarity(candidate: tuple[str, str]) -> float:
            name, parent = candidate
            nested = any(
                f"{a}.".startswith(f"{b}.") for a, b in ((parent, section), (section, parent))
            )
            nearness = _OWN_SECTION if parent == section else _NESTED_SECTION if nested else 0.0
            return difflib.SequenceMatcher(None, key, name).ratio() + nearness

        near = suggest(key, options)
        if any(index_of(part) is not None for part in path):  # in an element of a list
            for name, option in options.items():
                if key in _section(option, given.get(name))[0]:
                    return f"unknown key; it belongs under `{section}.{name}`{known}"
            if near:
                return f"unknown key{near}{known}"
        name, parent = max(everywhere, key=similarity)
        if parent == section or similarity((name, parent)) < _MIN_SIMILARITY:
            return f"unknown key{suggest(key, options)}{known}"
        return f"unknown key; did you mean `{f'{parent}.' * bool(parent)}{name}`?{known}"

    def _refuse(self, mark: Mark, path: KeyPath, message: str) -> Any:
        self.problems.append(Problem(mark, dotted(path), message))
        return UNREADABLE


def _unknown_name(registry: Registry[Any], name: str) -> str:
    try:
        registry.get(name)
    except RegistryError as error:
        return str(error)
    raise AssertionError(f"{name} is registered")


def _default_name(option: Option) -> str | None:
    """The registered name that a mapping without `name` has by default."""
    if isinstance(option.default, Spec):
        return option.default.name
    named = any(kind.registry for kind in kinds_of(option.annotation))
    return option.default if named and isinstance(option.default, str) else None


def _all_keys(
    options: Mapping[str, Option], given: Mapping[str, Node], path: KeyPath
) -> Iterator[tuple[str, str]]:
    """Yields each key that this recipe can have, with its section."""
    for name in options:
        yield name, dotted(path)
    if len(path) > 2:
        return
    for name, option in options.items():
        inner, node = _section(option, given.get(name))
        yield from _all_keys(inner, node, (*path, name))


def _section(option: Option, node: Node | None) -> tuple[Mapping[str, Option], Mapping[str, Node]]:
    """The options of a section and its written keys; both empty if it is not a section."""
    given = node.value if node is not None and isinstance(node.value, dict) else {}
    for kind in kinds_of(option.annotation):
        if kind.options_class is not None:
            return options_of(kind.options_class), given
        if kind.registry is not None:
            written = given["name"].value if "name" in given else node.value if node else None
            name = written if isinstance(written, str) else _default_name(option)
            known = name is not None and name in kind.registry.names()
            return (kind.registry.options(name) if known and name else {}), given
    return {}, {}
