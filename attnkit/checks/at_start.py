"""Tests the quick laws on a plugin before it trains, in the seats of its recipe."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from attnkit.attention.base import Role
from attnkit.checks.card import judge
from attnkit.checks.case import Case
from attnkit.checks.laws import LAWS, in_words
from attnkit.checks.seats import MaskCase
from attnkit.errors import UserError
from attnkit.masks import build_mask, name_of
from attnkit.models.layers import LayerOptions, layer_options
from attnkit.registry import ATTENTION, MLPS, NORMS, POSITIONS, WIRINGS, Spec

log = logging.getLogger(__name__)

LONGEST = 24
"""Maximum number of tokens of a case, so that the laws take about a second."""


class LawBrokenError(UserError, ValueError):
    """A plugin breaks a law in a seat of the recipe."""


def refuse_broken_plugins(model: Mapping[str, Any]) -> None:
    """Tests the quick laws on each mechanism that does not come with the kit, and the laws about
    whole models on each such wiring, norm and MLP.

    Args:
        model: a recipe's section: `attention`, `mask` and `position`, or sections that contain
            them.

    Raises:
        LawBrokenError: with the evidence.
    """
    _refuse_broken_mechanisms(model)
    for key, spec in {repr(part): part for part in _parts(model)}.values():
        _refuse_broken_part(key, spec)


def _refuse_broken_mechanisms(model: Mapping[str, Any]) -> None:
    done = set()
    for role, spec, mask, position in _seats(model):
        mechanism = ATTENTION.get(spec.name)
        seat = (role, repr(spec), repr(mask), position)
        if mechanism.__module__.startswith("attnkit.") or seat in done:
            continue
        done.add(seat)
        if mechanism.__module__ == "__main__":
            log.warning(
                "%s is registered in a notebook or script, so no other process can load this run; "
                "move it to a file and list that under `plugins`",
                spec.name,
            )
        built = build_mask(mask)
        length = min(max(10, (built.back or 0) + 4), LONGEST)
        cases = [
            Case(mechanism, MaskCase(name_of(built), mask), position, role, spec.options, T=length)
        ]
        for law in (law for law in LAWS if law.quick):
            line = judge(law, cases)
            if line.outcome == "crashed":
                trace = "".join(f"\n  {frame}" for frame in line.trace)
                raise LawBrokenError(
                    f"model.attention: {spec.name} raises {line.words}{trace}\n({line.smallest})"
                )
            if line.outcome == "broken":
                remedy = line.remedy and f"{line.remedy}; "
                raise LawBrokenError(
                    f"model.attention: {spec.name} breaks a law: {law.words}. {line.words}\n"
                    f"({line.smallest}; {remedy}`attnkit check` shows all laws; --no-check trains "
                    "it anyway)"
                )


_REGISTRIES = {"attention": ATTENTION, "mlp": MLPS, "norm": NORMS, "wiring": WIRINGS}


def _parts(value: Any, key: str = "") -> Iterator[tuple[str, Spec]]:
    """Yields each wiring, norm and MLP of a plugin that a section names, and each of its mechanisms
    that share values with other layers.
    """
    if isinstance(value, Spec):
        cls = _REGISTRIES[key].get(value.name) if key in _REGISTRIES else None
        if cls is None or cls.__module__.startswith("attnkit."):
            return
        if key != "attention" or cls.reads_stream():
            yield key, value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item, key)
    elif isinstance(value, Mapping) or dataclasses.is_dataclass(value):
        for name, item in (value if isinstance(value, Mapping) else vars(value)).items():
            yield from _parts(item, name)


def _refuse_broken_part(key: str, spec: Spec) -> None:
    """Tests the laws about whole models on small models with one part."""
    from attnkit.checks.models import check_part

    try:
        card = check_part(key, spec)
    except ValueError:  # it does not support this width; that of the recipe was checked before
        return
    for line in card.broken:
        raise LawBrokenError(
            f"model.{key}: {spec.name} breaks a law: {in_words(line.law)}. {line.words}\n"
            f"({line.smallest}; --no-check trains it anyway)"
        )


def _seats(model: Mapping[str, Any], role: Role = "self") -> Iterator[tuple[Role, Spec, Any, str]]:
    """Yields role, mechanism, mask and position of each layer, in nested sections too."""
    if "attention" in model and role == "cross":
        named = model["attention"]
        for spec in named if isinstance(named, list | tuple) else [named]:
            yield role, Spec.of(spec), "none", "none"
    elif "attention" in model:
        for layer in _layers(model):
            inside = POSITIONS.get(layer.position.name).acts_on != "embeddings"
            yield role, layer.attention, layer.mask, layer.position.name if inside else "none"
            if layer.cross is not None:
                yield "cross", layer.cross, "none", "none"
    for name, section in model.items():
        if dataclasses.is_dataclass(section) and not isinstance(section, Spec):
            section = vars(section)
        if isinstance(section, Mapping):
            yield from _seats(section, "cross" if name.startswith("cross") else "self")


def _layers(section: Mapping[str, Any]) -> list[LayerOptions]:
    """Returns the options of each layer of a section; without a number of layers, one for each
    mechanism.
    """
    named, pattern = section["attention"], section.get("layers")
    length = len(named) if isinstance(named, list | tuple) else 1
    keys = {"mask": "none", "position": "none", "mlp": "none", "norm": "none", "wiring": "pre_norm"}
    given = {key: section[key] for key in ("mask", "position") if key in section}
    return layer_options(
        {**keys, **given, "attention": named}, section.get("num_layers", length), pattern
    )
