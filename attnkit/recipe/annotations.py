"""Annotations of options: which values a recipe may give them, and how messages describe them."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from attnkit.recipe.scalars import needs_quotes
from attnkit.registry import Registry, Spec, suggest


@dataclass(frozen=True)
class Range:
    """Bounds of a number, as metadata: `Annotated[int, Range(min=1)]`.

    Args:
        min: least value allowed.
        max: greatest value allowed.
        above: the value must be greater than this.
        below: the value must be less than this.
    """

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None

    def fault(self, value: float) -> str | None:
        """Returns what is wrong with `value`, or None."""
        if self.min is not None and value < self.min:
            return f"must be at least {self.min}, got {value}"
        if self.max is not None and value > self.max:
            return f"must be at most {self.max}, got {value}"
        if self.above is not None and value <= self.above:
            return f"must be greater than {self.above}, got {value}"
        if self.below is not None and value >= self.below:
            return f"must be less than {self.below}, got {value}"
        return None


@dataclass(frozen=True)
class Pattern:
    """Form of a text, as metadata: an expression that matches all of it, and its description."""

    expression: str
    description: str

    def fault(self, value: str) -> str | None:
        """Returns what is wrong with `value`, or None."""
        if re.fullmatch(self.expression, value):
            return None
        return f"{value!r} is not allowed here; use {self.description}"


@dataclass(frozen=True)
class OptionsOf:
    """The class whose options a mapping holds: `Annotated[dict[str, Any], OptionsOf(cls)]`."""

    cls: type


@dataclass(frozen=True)
class Kind:
    """One alternative of an annotation: a bare type and its metadata."""

    type: Any
    metadata: tuple[Any, ...]

    @property
    def origin(self) -> Any:
        """`list` of `list[int]`, `Literal` of `Literal["auto"]`, None of `int`."""
        return typing.get_origin(self.type)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """`(int,)` of `list[int]`."""
        return typing.get_args(self.type)

    @property
    def registry(self) -> Registry[Any] | None:
        """Where the names of a spec are registered."""
        return next((item for item in self.metadata if isinstance(item, Registry)), None)

    @property
    def options_class(self) -> type | None:
        """The class whose options a mapping holds."""
        if dataclasses.is_dataclass(self.type) and self.type is not Spec:
            return self.type  # pyright: ignore[reportReturnType]
        return next((item.cls for item in self.metadata if isinstance(item, OptionsOf)), None)

    @property
    def is_list(self) -> bool:
        """True for lists, tuples and sequences."""
        return self.origin in (list, tuple, Sequence)

    @property
    def is_mapping(self) -> bool:
        """True if recipes write the value as a mapping; False for a spec."""
        return self.origin in (dict, Mapping) or self.options_class is not None

    def fits(self, value: Any) -> bool:
        """True if the value is of this kind; its content is not checked."""
        if self.type is Any:
            return True
        if self.origin is Literal:
            return any(value == word and type(value) is type(word) for word in self.arguments)
        if self.is_list or self.is_mapping:
            return isinstance(value, list if self.is_list else dict)
        if isinstance(value, bool):  # a subclass of int
            return self.type is bool
        written_as = {Spec: (str, dict), Path: (str,), float: (float, int)}.get(
            self.type, self.type
        )
        return isinstance(written_as, type | tuple) and isinstance(value, written_as)


def kinds_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> list[Kind]:
    """The alternatives of an annotation; metadata of a union or a list apply to its members too."""
    if typing.get_origin(annotation) is Annotated:
        return kinds_of(annotation.__origin__, (*annotation.__metadata__, *metadata))
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = typing.get_args(annotation)
        return [kind for member in members for kind in kinds_of(member, metadata)]
    return [Kind(annotation, metadata)]


def mismatch(kinds: Sequence[Kind], value: Any) -> str:
    """Returns a message: what was expected, what was found, and how to fix it."""
    expected = [word for kind in kinds for word in _expected(kind)]
    alternatives = ", ".join(expected[:-1]) + (" or " if expected[:-1] else "") + expected[-1]
    return f"expected {alternatives}, got {_received(value)}{_remedy(kinds, value)}"


def _expected(kind: Kind) -> list[str]:
    if kind.origin is Literal:
        return [f"`{word}`" for word in kind.arguments]
    if kind.is_list:
        fixed = kind.origin is tuple and kind.arguments[-1] is not Ellipsis
        return [f"a list of {len(kind.arguments)} values" if fixed else "a list"]
    if kind.is_mapping:
        return ["a mapping of options"]
    if kind.type is Spec and kind.registry is not None:
        return [f"the name of a registered {kind.registry.kind} or {{name: ..., option: ...}}"]
    known = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        type(None): "null",
    }
    return [known.get(kind.type, f"{kind.type} (a type that a recipe cannot express)")]


def _received(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"text {value!r}" if len(value) <= 60 else f"text {value[:57]!r}..."
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"a Python {type(value).__name__}"


def _remedy(kinds: Sequence[Kind], value: Any) -> str:
    types = [kind.type for kind in kinds]
    if isinstance(value, float) and int in types and value.is_integer():
        return f"; write {int(value)}"
    if isinstance(value, bool | int | float) and str in types:
        return "; put it in quotes"
    if not isinstance(value, str):
        return ""
    if value == "None" and type(None) in types:
        return "; write null"
    if (int in types or float in types or bool in types) and needs_quotes(value):
        return "; write it without quotes"
    literals = [str(word) for kind in kinds if kind.origin is Literal for word in kind.arguments]
    return suggest(value, literals)
