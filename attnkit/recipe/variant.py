"""Names of run folders: what tells a run from the other runs of its recipe, in a few words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from attnkit.recipe.annotations import Pattern
from attnkit.recipe.errors import key_path
from attnkit.recipe.layers import override_key
from attnkit.recipe.scalars import read_plain

BASE = "base"
"""The variant of a recipe without overrides."""

FOLDER_NAME = Pattern(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}",
    "letters, digits, `-`, `_` and `.` (not first), at most 100, for it names a folder",
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

_LONGEST = 60
_NO_PART_OF_IT = ("seed", "name", "variant", "runs_dir", "ablation")


def variant_of(overrides: Sequence[str], before: str = BASE) -> str:
    """Names the variant that overrides make: `attention.name-linear_dim-64`.

    The order of the overrides does not matter, nor does the way in which a number is written. A
    hash is added where something had to be cut or replaced, so that no two variants share a name.

    Args:
        overrides: valid overrides, `key=value` or `~key`.
        before: the variant to which they are applied.
    """
    counted = [text for text in overrides if not is_within(override_key(text), _NO_PART_OF_IT)]
    if not counted:
        return before
    words = sorted(map(_word, counted))
    exact = "_".join(words if before == BASE else [before, *words])
    safe = re.sub(r"[^A-Za-z0-9._]+", "-", exact).strip("-.")
    if safe == exact and len(safe) <= _LONGEST:
        return safe
    digest = hashlib.sha256(exact.encode()).hexdigest()[:6]
    return f"{safe[: _LONGEST - len(digest) - 1]}-{digest}"


def is_within(key: str, sections: Sequence[str]) -> bool:
    """True if a key is one of `sections`, or lies in one: `logging.samples` in `logging`."""
    return any(
        key == section or key.startswith((f"{section}.", f"{section}[")) for section in sections
    )


def _word(override: str) -> str:
    # `layers[1].mask` as `layers.1.mask`: brackets have no place in the name of a folder.
    key = ".".join(key_path(override_key(override).removeprefix("model.")))
    key = key.replace("[", "").replace("]", "")
    if override.startswith("~"):
        return f"no-{key}"
    written = override.partition("=")[2].strip()
    value = read_plain(written)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{key}-{value if is_number else written}"
