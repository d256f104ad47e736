"""The scores of all heads over training, as the head clinic (the callback, and `attnkit clinic`)
writes them to a run's directory.

`clinic.json` is an object with two keys: `steps`, the examined steps, and `heads`, the name of a
head -> score -> a number per step, or null where it was not measured. A head is named `L1H2`; in a
model with several sites, `decoder.cross L1H2`.

Imports only the standard library, since TensorBoard reads the file.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attnkit.tensorboard.untrusted import MapFormatError, is_a, list_of, read_steps, require, typed

FILE = "clinic.json"
"""Name of the file in a run's directory."""

MAX_BYTES = 64 * 2**20

CLEAR = 0.4
"""Smallest mass that names a head after a pattern."""

FORMED = 0.3
"""Smallest mass that counts as formed: below `CLEAR`, since heads may share a pattern."""

EVEN = 0.9
"""Smallest evenness that names a head `even`."""

LOCAL = 4.0
"""Largest mean distance in tokens that names a head `local`."""

WORDS = {
    "induction": "induction",
    "previous": "previous",
    "duplicate": "duplicate",
    "current": "own",
    "first": "first",
    "diagonality": "diagonal",
}
"""Score -> word for a head with a high score."""

FORMING = ("previous", "duplicate", "induction")
"""Patterns that form while a model trains."""

_NAME = re.compile(r"(?:(\S+) )?L(\d{1,6})H(\d{1,6})")


class HeadName(NamedTuple):
    """Site, layer and head, the numbers from 0."""

    site: str
    layer: int
    head: int

    def __str__(self) -> str:
        place = f"L{self.layer}H{self.head}"
        return place if self.site == "self" else f"{self.site} {place}"

    @classmethod
    def read(cls, name: str) -> HeadName:
        """Reads what `str` wrote.

        Raises:
            MapFormatError: if it is not the name of a head.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise MapFormatError(f"{name[:80]!r} is not the name of a head; expected L0H0")
        return cls(found[1] or "self", int(found[2]), int(found[3]))


def word_of(scores: Mapping[str, float]) -> str:
    """Describes a head in one word: its clearest pattern, or how its weights are distributed."""
    named = {name: scores[name] for name in WORDS if name in scores}
    best = max(named, key=named.__getitem__, default=None)
    if best is not None and named[best] >= CLEAR:
        return WORDS[best]
    if scores.get("evenness", 0.0) >= EVEN:
        return "even"
    return "local" if scores.get("distance", LOCAL + 1) <= LOCAL else "mixed"


def extended(
    history: Mapping[str, Any], heads: Mapping[str, Mapping[str, float]], step: int
) -> dict[str, Any]:
    """Returns a history with the scores of a moment. If it already has the step, they replace those
    of the same names; everything else remains.

    Args:
        history: the history so far; may be empty.
        heads: name of a head -> its scores at the moment.
        step: step of the moment.
    """
    steps: Sequence[int] = history.get("steps", [])
    at = bisect_left(steps, step)
    after = at + (step in steps)
    old_heads = history.get("heads", {})
    extended_heads: dict[str, dict[str, list[float | None]]] = {}
    for name in dict.fromkeys((*old_heads, *heads)):
        before, now = old_heads.get(name, {}), heads.get(name, {})
        extended_heads[name] = {}
        for score in dict.fromkeys((*before, *now)):
            values = before.get(score, [None] * len(steps))
            old = values[at] if after > at else None
            extended_heads[name][score] = [*values[:at], now.get(score, old), *values[after:]]
    return {"steps": [*steps[:at], step, *steps[after:]], "heads": extended_heads}


def read_history(file: Path) -> dict[str, Any]:
    """Reads and checks a `clinic.json`. Numbers that are not finite become None.

    Raises:
        OSError: if it cannot be read.
        MapFormatError: if it is damaged, or too large.
    """
    try:
        content, steps = read_steps(file, MAX_BYTES)
        heads = typed(content, "heads", dict)
        require(bool(heads), "it has no heads")
        checked = {
            str(HeadName.read(name)): {
                score: _numbers(typed(heads, name, dict), score, len(steps))
                for score in heads[name]
            }
            for name in heads
        }
    except MapFormatError as error:
        raise MapFormatError(f"{FILE} is damaged: {error}") from error
    return {"steps": steps, "heads": checked}


def _numbers(scores: Mapping[str, Any], score: str, count: int) -> list[float | None]:
    values = list_of(dict(scores), score, (int, float, type(None)))
    require(len(values) == count, f"{len(values)} numbers of {score[:40]} for {count} steps")
    return [
        value if is_a(value, (int, float)) and math.isfinite(value) else None for value in values
    ]


class Formed(NamedTuple):
    """The first appearance of a pattern in a head.

    Attributes:
        score: name of the pattern.
        head: the first head that has it.
        step: the earliest step from which on the head scores at least `FORMED` on it.
        before: the step before and the score there; None: `step` is the first.
    """

    score: str
    head: str
    step: int
    before: tuple[int, float] | None

    def __str__(self) -> str:
        place = f"by step {self.step:,}"
        if self.before is not None:
            place += f" (at step {self.before[0]:,}: {self.before[1]:.2f})"
        return f"{self.score}: formed {place}, first in {self.head}"


def formed(history: Mapping[str, Any]) -> Iterator[Formed]:
    """Yields the first appearance of each pattern that formed."""
    steps: Sequence[int] = history["steps"]
    for score in FORMING:
        first: tuple[int, str] | None = None
        for name, scores in history["heads"].items():
            values = scores.get(score)
            if not values or (values[-1] or 0.0) < FORMED:
                continue
            below = [i for i, value in enumerate(values) if (value or 0.0) < FORMED]
            since = below[-1] + 1 if below else 0
            first = min(first or (since, name), (since, name))
        if first is None:
            continue
        since, name = first
        before = None
        if since:
            before = (steps[since - 1], history["heads"][name][score][since - 1] or 0.0)
        yield Formed(score, name, steps[since], before)


def as_json(history: Mapping[str, Any]) -> str:
    """Returns the contents of the file."""
    return json.dumps(history) + "\n"
