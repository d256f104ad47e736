"""Reads the options of a class that a recipe may set.

The keyword-only parameters of `__init__` *are* the options: their annotations are the types, their
defaults the defaults, and the `Args:` section of the docstring the help. Nothing is declared twice.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attnkit.errors import UserError


class RegistryError(UserError, ValueError):
    """A name, an option or a plugin is invalid."""


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Any = _Required()
"""Default of an option that has none."""


class _LeftOut:
    def __repr__(self) -> str:
        return "left to the class"


LEFT_OUT: Any = _LeftOut()
"""Default of an option that is not passed, since its class was not written for recipes."""


@dataclass(frozen=True)
class Option:
    """One key of a recipe: name, type annotation, default (or `REQUIRED`) and help."""

    name: str
    annotation: Any
    default: Any
    help: str


@dataclass(frozen=True)
class Spec:
    """A registered name with options, as a recipe writes it: `{name: rotary, base: 10000}`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Spec | str | Mapping[str, Any]) -> Spec:
        """Reads `"rotary"`, `{"name": "rotary", "base": 10000}` or a `Spec`.

        Raises:
            RegistryError: if a mapping has no `name`, or the value is none of these.
        """
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping):
            if not isinstance(value.get("name"), str):
                raise RegistryError(f"{dict(value)} has no name; write {{name: ..., option: ...}}")
            return cls(value["name"], {k: v for k, v in value.items() if k != "name"})
        raise RegistryError(f"expected a name or {{name: ..., option: ...}}, got {value!r}")


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean `x`?"` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def options_of(cls: type) -> dict[str, Option]:
    """Returns the keyword-only parameters of a class's `__init__`, including its parents' if it
    takes `**options`, except those in its attribute `sets_itself`.

    Raises:
        RegistryError: if an annotation cannot be resolved.
    """
    options: dict[str, Option] = {}
    for owner in cls.__mro__:
        init = owner.__dict__.get("__init__")
        if init is None:
            continue
        declared, passes_options = _declared(owner)
        defaults = getattr(inspect.unwrap(init), "__kwdefaults__", None) or {}
        for name, (annotation, help_text) in declared.items():
            if name not in options:
                options[name] = Option(name, annotation, defaults.get(name, REQUIRED), help_text)
        if not passes_options:
            break
    for name in getattr(cls, "sets_itself", ()):
        options.pop(name, None)
    return options


def parameters_of(cls: type) -> dict[str, Option]:
    """The named parameters of the `__init__` of a class that was not written for recipes, which a
    recipe names by its path.
    """
    owner = next(one for one in cls.__mro__ if "__init__" in one.__dict__)
    init = owner.__dict__["__init__"]
    if owner is object:
        return {}
    try:
        annotations = typing.get_type_hints(init, include_extras=True)
    except Exception:  # types that are imported only for type checkers
        annotations = {}
    helps = _argument_help(owner)
    _, *parameters = inspect.signature(init).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        one.name: Option(
            one.name,
            annotations.get(one.name, Any),
            REQUIRED if one.default is one.empty else LEFT_OUT,
            helps.get(one.name, ""),
        )
        for one in parameters
        if one.kind in named
    }


def positional_option(cls: type, key: str) -> str:
    """Explains how to turn a positional parameter into an option; empty if the key is not one."""
    for owner in cls.__mro__:
        init = owner.__dict__.get("__init__")
        parameter = inspect.signature(init).parameters.get(key) if init else None
        if parameter is not None and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            return (
                f"`{key}` of {owner.__name__}.__init__ is positional, but options follow a "
                f"`*`: def __init__(self, dim, *, {key}, ...)"
            )
    return ""


@functools.cache  # called for every new mask and layer
def _declared(owner: type) -> tuple[dict[str, tuple[Any, str]], bool]:
    """Returns the options that the `__init__` of a class itself declares: name -> annotation and
    help; and True if it passes `**options` on.
    """
    init = owner.__dict__["__init__"]
    parameters = inspect.signature(init).parameters.values()
    try:
        annotations = typing.get_type_hints(init, include_extras=True)
    except NameError as error:
        raise RegistryError(
            f"an option of {owner.__module__}.{owner.__qualname__} has the type "
            f"`{error.name}`, which is not imported at run time; move its import out of "
            "`if TYPE_CHECKING`"
        ) from error
    helps = _argument_help(owner)
    declared = {
        parameter.name: (annotations.get(parameter.name, Any), helps.get(parameter.name, ""))
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return declared, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _argument_help(cls: type) -> dict[str, str]:
    """Reads the `Args:` sections (Google style) of a class and of its `__init__`."""
    helps: dict[str, str] = {}
    for doc in (cls.__doc__, cls.__dict__["__init__"].__doc__):
        section = re.search(
            r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(doc or ""), re.MULTILINE
        )
        if section is None:
            continue
        entry = r"^ {4}(\w+)(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)"
        for name, text in re.findall(entry, section.group(1), re.MULTILINE):
            helps[name] = " ".join(text.split())
    return helps
