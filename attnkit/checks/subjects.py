"""The subjects of `attnkit check`: a name, a plugin file or a module, with masks and roles."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnkit.attention.base import Role
from attnkit.checks.seats import MaskCase, mask_cases
from attnkit.checks.selection import cases_of
from attnkit.masks import build_mask, name_of
from attnkit.registry import (
    ATTENTION,
    MASKS,
    MLPS,
    NORMS,
    POSITIONS,
    WIRINGS,
    Registry,
    RegistryError,
    Spec,
    load_plugin,
    suggest,
)


@dataclass(frozen=True)
class Subject:
    """The subject of one card.

    Args:
        name: name of a mechanism, or of a part of layers.
        part: key of a model (`wiring`, `norm`, `mlp`) whose value it is; empty: a mechanism.
        positions: position encodings to test it with; None: all.
        masks: masks to test it under; None: all.
    """

    name: str
    part: str = ""
    positions: tuple[str, ...] | None = None
    masks: tuple[MaskCase, ...] | None = None

    def __str__(self) -> str:
        beside = [f"position {name}" for name in self.positions or ()]
        beside += [f"mask {case.name}" for case in self.masks or () if not case.padded]
        return f"{self.name} with {' and '.join(beside)}" if beside else self.name


PARTS: dict[str, Registry[Any]] = {"wiring": WIRINGS, "norm": NORMS, "mlp": MLPS}
"""Key of a model -> the parts of layers that it may name, see `models.py`."""

HOST = "multi_head"
"""The mechanism in which a plugin's position encodings and masks are tested."""


def subjects_of(what: str) -> list[Subject]:
    """Returns the mechanism or the part of this name, or all that a file or a module registers. If
    it registers no mechanism, its position encodings and masks are tested in one of the kit.

    Raises:
        RegistryError: if it is none of these, or registers nothing that can be checked.
    """
    module = module_of(what)
    if module is None:
        if what in ATTENTION.names():
            return [Subject(what)]
        return [Subject(what, part) for part in PARTS if what in PARTS[part].names()]
    found = [Subject(name) for name in names_in(module, ATTENTION)]
    if not found:
        positions = names_in(module, POSITIONS)
        inside = [name for name in positions if POSITIONS.get(name).acts_on != "embeddings"]
        found += [Subject(HOST, positions=(name,)) for name in inside]
        masks = names_in(module, MASKS)
        found += [Subject(HOST, masks=tuple(masks_of([name]) or ())) for name in masks]
    found += [Subject(name, part) for part in PARTS for name in names_in(module, PARTS[part])]
    if not found:
        raise RegistryError(
            f"{what} registers no mechanism; write @ATTENTION.register('a_name') above the class"
        )
    return found


def module_of(what: str) -> str | None:
    """Imports a plugin file or a module, and returns the name of its module; None for the name of a
    mechanism or of a part of layers.

    Raises:
        RegistryError: if it is none of these, or its import fails.
    """
    if not what.endswith(".py"):
        if any(what in registry.names() for registry in (ATTENTION, *PARTS.values())):
            return None
        if not _is_module(what):
            raise RegistryError(
                f"nothing is called `{what}`{suggest(what, ATTENTION.names())} "
                f"(mechanisms: {', '.join(ATTENTION.names())}; a plugin file ends in .py)"
            )
    return load_plugin(what, Path()).__name__


def names_in(module: str, registry: Registry[Any]) -> list[str]:
    """Returns the names that a module, or a module of its package, registers."""
    homes = {name: registry.get(name).__module__ for name in registry.names()}
    return [name for name, home in homes.items() if f"{home}.".startswith(f"{module}.")]


def _is_module(what: str) -> bool:
    try:
        return importlib.util.find_spec(what) is not None
    except (ImportError, ValueError):
        return False


def masks_of(given: Sequence[Any]) -> list[MaskCase] | None:
    """Returns the cases of masks that are written as in a recipe, each also with padding. A plain
    name gets options with which the mask has an effect on a few tokens.

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
    subjects: Sequence[Subject], masks: Sequence[MaskCase] | None, roles: Sequence[Role]
) -> None:
    """Checks that each mechanism supports at least one of the seats.

    Raises:
        RegistryError: with the mechanism's own reasons.
    """
    for subject in subjects:
        if subject.part:
            continue
        cases, refused = cases_of(
            ATTENTION.get(subject.name),
            masks=masks or subject.masks,
            positions=subject.positions,
            roles=roles,
        )
        if not cases:
            raise RegistryError(f"nothing to check: {'; '.join(refused)}")


def _names(spec: Any, name: str) -> bool:
    """Returns True if the spec of a case is this mask alone."""
    return isinstance(spec, dict) and Spec.of(spec).name == name
