"""Names of run folders: how a run differs from the other runs of its recipe, in a few words."""

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
"""Keys and sections that say where a run computes and who listens, not what it learns."""

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

_LONGEST = 100
_PLACE = ("seed", "name", "variant", "runs_dir", "ablation")

_NAMED_BY_VALUE = "attention"
"""The mechanism is named by its value alone: `linear`, not `attention=linear`."""

LEFT_OUT = (
    "model.attention.",
    "model.mask.",
    "model.position.",
    "model.",
    "optimizer.",
    "trainer.",
)
"""Sections that a name leaves out: the last part of the key tells enough."""

_KEPT = (
    "model.attention.bias",
    "model.attention.dropout",
    "model.attention.norm",
    "model.position.share",
)
"""Keys that keep their section, since another key of `LEFT_OUT` has the same last part."""


def variant_of(overrides: Sequence[str], before: str = BASE) -> str:
    """Names the variant that overrides make: `linear`, `heads=4,window=64`, `lr=0.003`.

    A mechanism is named alone, other keys with their value. The order of the overrides does not
    matter, nor does the way in which a number is written. A hash is added where letters had to be
    replaced or left out, so that no two variants share a name.

    Args:
        overrides: valid overrides, `key=value` or `~key`.
        before: the variant to which they are applied.
    """
    counted = [text for text in overrides if not is_within(override_key(text), _PLACE)]
    if not counted:
        return before
    words = sorted(map(_words, counted), key=lambda word: ("=" in word.split(",")[0], word))
    exact = ",".join(words if before == BASE else [before, *words])
    safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", exact).strip("-.,=+")
    if safe == exact and len(safe) <= _LONGEST:
        return safe
    digest = hashlib.sha256(exact.encode(errors="backslashreplace")).hexdigest()[:6]
    return f"{_shortened(safe, _LONGEST - len(digest) - 1)}-{digest}"


def is_within(key: str, sections: Sequence[str]) -> bool:
    """True if a key is one of `sections`, or is in one: `logging.samples` in `logging`."""
    return any(
        key == section or key.startswith((f"{section}.", f"{section}[")) for section in sections
    )


def _words(override: str) -> str:
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
    word = _in_letters(value)
    yield word if short == _NAMED_BY_VALUE and isinstance(value, str) else f"{short}={word}"


def short_key(key: str) -> str:
    """Returns a key without the parts that a name can do without: `heads` of
    `model.attention.num_heads`, `mask` of `model.mask.name`.
    """
    # `layers[1].mask` as `layers.1.mask`: brackets have no place in the name of a folder.
    whole = ".".join(key_path(key)).replace("[", "").replace("]", "").removesuffix(".name")
    section = "model." if whole in _KEPT else next(filter(whole.startswith, LEFT_OUT), "")
    return re.sub(r"(^|\.)num_(?=[a-z_]+$)", r"\1", whole.removeprefix(section))


def _in_letters(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, list):
        return "+".join(map(_in_letters, value)) or "none"
    return str(value)


def _shortened(name: str, length: int) -> str:
    """Shortens the keys of a name that is too long, before it leaves out a value."""
    if len(name) > length:
        name = re.sub(r"[A-Za-z0-9_.]+(?==)", lambda key: _initials(key[0]), name)
    return name[:length].rstrip("-.,=+")


def _initials(key: str) -> str:
    return "".join(part[0] for part in re.split(r"[._]", key) if part)
