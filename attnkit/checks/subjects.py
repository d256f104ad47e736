"""What `attnkit check` was asked about: a name, a plugin file, a module; masks and roles."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnkit.attention.base import Role
from attnkit.checks.card import cases_of
from attnkit.checks.seats import MaskCase, mask_cases
from attnkit.masks import build_mask, name_of
from attnkit.registry import ATTENTION, RegistryError, Spec, load_plugin, suggest


def mechanisms_of(what: str) -> list[str]:
    """The registered names that a word stands for: itself, or all that a file or a module
    registers.

    Raises:
        RegistryError: if it is none of these, or registers no mechanism.
    """
    if not what.endswith(".py"):
        if what in ATTENTION.names():
            return [what]
        if not _is_module(what):
            raise RegistryError(
                f"nothing is called `{what}`{suggest(what, ATTENTION.names())} "
                f"(mechanisms: {', '.join(ATTENTION.names())}; a plugin file ends in .py)"
            )
    module = load_plugin(what, Path()).__name__
    homes = {name: ATTENTION.get(name).__module__ for name in ATTENTION.names()}
    found = [name for name, home in homes.items() if f"{home}.".startswith(f"{module}.")]
    if not found:
        raise RegistryError(
            f"{what} registers no mechanism; write @ATTENTION.register('a_name') above the class"
        )
    return found


def _is_module(what: str) -> bool:
    try:
        return importlib.util.find_spec(what) is not None
    except (ImportError, ValueError):
        return False


def masks_of(given: Sequence[Any]) -> list[MaskCase] | None:
    """The cases of masks as a recipe writes them; a plain name takes options that bite at a few
    tokens. Each comes with padding too.

    Raises:
        RegistryError: if a mask is unknown.
    """
    if not given:
        return None
    found = []
    for spec in given:
        if isinstance(spec, str):
            small = [c.spec for c in mask_cases() if _names(c.spec, spec)] or [spec]
        else:
            small = [spec]
        for each in small:
            try:
                words = name_of(build_mask(each))
            except ValueError as error:
                raise RegistryError(f"--mask: {error}") from error
            if isinstance(each, dict) and len(each) > 1:
                words += "-" + "-".join(str(v) for k, v in each.items() if k != "name")
            found += [MaskCase(words, each), MaskCase(f"{words}&padding", each, padded=True)]
    return found


def refuse_unseated(
    names: Sequence[str], masks: Sequence[MaskCase] | None, roles: Sequence[Role]
) -> None:
    """Refuses to check a mechanism that refuses every seat in question.

    Raises:
        RegistryError: with the mechanism's own reasons.
    """
    for name in names:
        cases, refused = cases_of(ATTENTION.get(name), masks=masks, roles=roles)
        if not cases:
            raise RegistryError(f"nothing to check: {'; '.join(refused)}")


def _names(spec: Any, name: str) -> bool:
    """True if a case's spec is this mask alone."""
    return isinstance(spec, dict) and Spec.of(spec).name == name
