"""Names of run folders: short descriptions of how a run differs from others of its recipe."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from attnkit.recipe.annotations import Pattern
from attnkit.recipe.errors import Mark, key_path
from attnkit.recipe.merging import override_key
from attnkit.recipe.source import plain, read_value

BASE = "base"
"""The variant of a recipe without overrides."""

FOLDER_NAME = Pattern(
    r"[A-Za-z0-9_-][A-Za-z0-9._=,+-]{0,99}",
    "letters, digits, `-`, `_`, and after the first `.`, `=`, `,`, `+`; at most 100, since it "
    "names a folder",
)
"""Names that are safe as folders on every file system and in TensorBoard."""

ABOUT_THE_MACHINE = (
    "trainer.num_workers",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.compile",
    "validation.every_n_steps",
    "checkpoint",
    "logging",
)
"""Keys and sections about where a run computes and logs, not about what it learns."""

WITHOUT_INFLUENCE = (
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.on_nan",
    "trainer.max_skipped",
    *ABOUT_THE_MACHINE,
)
"""Keys and sections that may differ when a run resumes: they do not change what it learns, except
for rounding.
"""

NOT_IN_A_NAME = (*WITHOUT_INFLUENCE, "validation")
"""Keys and sections that do not change what is learnt, and so are not part of a run's name."""

_MAX_LENGTH = 100
_ABOUT_THE_FOLDER = ("seed", "name", "variant", "runs_dir", "ablation")

_NAMED_BY_VALUE = "attention"
"""The mechanism is named by its value alone: `linear`, not `attention=linear`."""

OMITTED = (
    "model.attention.",
    "model.mask.",
    "model.position.",
    "model.",
    "optimizer.",
    "trainer.",
)
"""Sections that a name omits: the last part of the key is enough."""

_AMBIGUOUS = (
    "model.attention.bias",
    "model.attention.dropout",
    "model.attention.norm",
    "model.position.share",
)
"""Keys that keep their section, since another key of `OMITTED` has the same last part."""


def variant_of(overrides: Sequence[str], base: str = BASE) -> str:
    """Names the variant that overrides make: `linear`, `heads=4,window=64`, `lr=0.003`.

    A mechanism is named alone, other keys with their value. The order of the overrides does not
    matter, nor does the way in which a number is written. A hash is added if characters were
    replaced or removed, so that no two variants share a name.

    Args:
        overrides: valid overrides, `key=value` or `~key`.
        base: the variant to which they are applied.
    """
    naming = [text for text in overrides if not is_within(override_key(text), _ABOUT_THE_FOLDER)]
    if not naming:
        return base
    parts = sorted(map(_part_of_name, naming), key=lambda text: ("=" in text.split(",")[0], text))
    exact = ",".join(parts if base == BASE else [base, *parts])
    safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", exact).strip("-.,=+")
    if safe == exact and len(safe) <= _MAX_LENGTH:
        return safe
    digest = hashlib.sha256(exact.encode(errors="backslashreplace")).hexdigest()[:6]
    return f"{_shortened(safe, _MAX_LENGTH - len(digest) - 1)}-{digest}"


def is_within(key: str, sections: Sequence[str]) -> bool:
    """True if a key is one of `sections`, or is in one: `logging.samples` in `logging`."""
    return any(
        key == section or key.startswith((f"{section}.", f"{section}[")) for section in sections
    )


def _part_of_name(override: str) -> str:
    """Returns the part of a name that one override makes."""
    key = override_key(override)
    if override.startswith("~"):
        return f"no-{short_key(key)}"
    mark = Mark(f"override {override}")
    value = plain(read_value(override.partition("=")[2], (key,), mark, []))
    return ",".join(_named(key, value))


def _named(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _named(f"{key}.{name}", part)
        return
    short = short_key(key)
    text = _as_text(value)
    yield text if short == _NAMED_BY_VALUE and isinstance(value, str) else f"{short}={text}"


def short_key(key: str) -> str:
    """Returns a key without the parts that a name does not need: `heads` of
    `model.attention.num_heads`, `mask` of `model.mask.name`.
    """
    # `layers[1].mask` as `layers.1.mask`: a folder name cannot contain brackets.
    whole = ".".join(key_path(key)).replace("[", "").replace("]", "").removesuffix(".name")
    section = "model." if whole in _AMBIGUOUS else next(filter(whole.startswith, OMITTED), "")
    return re.sub(r"(^|\.)num_(?=[a-z_]+$)", r"\1", whole.removeprefix(section))


def _as_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, list):
        return "+".join(map(_as_text, value)) or "none"
    return str(value)


def _shortened(name: str, length: int) -> str:
    """Shortens the keys of a name that is too long, and only then cuts it off."""
    if len(name) > length:
        name = re.sub(r"[A-Za-z0-9_.]+(?==)", lambda key: _initials(key[0]), name)
    return name[:length].rstrip("-.,=+")


def _initials(key: str) -> str:
    return "".join(part[0] for part in re.split(r"[._]", key) if part)
