"""Draws values of keys from ranges, for a random search in addition to a grid.

| range | drawn |
|---|---|
| `0..0.3` | uniformly |
| `log:1e-4..1e-2` | uniformly in the logarithm |
| `2..8`, `log:16..512` | whole numbers, both ends included |

The plan of a study is fixed before its first run, since its seeds are paired and its verdicts
corrected for all variants. Samplers that learn from results are therefore not supported, and
Python's generator is enough.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")

_TRIES = 200
"""Draws per combination, after which the ranges are assumed to have no more."""

_DIGITS = 3
"""Significant digits of a drawn number, which becomes part of a name."""


@dataclass(frozen=True)
class Range:
    """Numbers that a key is drawn from.

    Attributes:
        low: the smallest.
        high: the largest.
        is_log: drawn uniformly in the logarithm.
        is_whole: whole numbers only.
    """

    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False

    def at(self, share: float) -> float:
        """Returns the number at a share of the range, from 0 to 1."""
        # Each whole number covers a width of 1, so that both ends are as likely as the others.
        half = 0.5 if self.is_whole else 0.0
        low, high = self.low - half, self.high + half
        if self.is_log:
            number = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            number = low + share * (high - low)
        short = round(number) if self.is_whole else float(f"{number:.{_DIGITS}g}")
        within = min(max(short, self.low), self.high)
        return int(within) if self.is_whole else within


def is_range(text: str) -> bool:
    """True for text that looks like a range, even an invalid one."""
    return text.startswith("log:") or _RANGE.fullmatch(text) is not None


def read_range(text: str) -> Range:
    """Reads a range.

    Raises:
        ValueError: if it is invalid; the message says what is expected.
    """
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError("expected a range, such as 0..0.3, log:1e-4..1e-2 or 2..8")
    log, *ends = found.groups()
    low, high = map(float, ends)
    if not low < high:
        raise ValueError(f"the range begins at {low:g} and ends at {high:g}; write the lower first")
    if log and low <= 0:
        raise ValueError(f"a range with `log:` must begin above 0, got {low:g}")
    is_whole = all(re.fullmatch(r"[-+]?\d+", end) for end in ends)
    return Range(low, high, is_log=bool(log), is_whole=is_whole)


def draw(ranges: Mapping[str, Range], count: int, seed: int) -> list[dict[str, float]]:
    """Draws different combinations. A draw does not depend on `count`, nor that of a key on the
    other keys.

    Args:
        ranges: by key.
        count: number of combinations.
        seed: equal seeds give equal draws on every machine.

    Returns:
        Key -> number, for each combination; fewer than `count` if there are not so many.
    """
    generators = {key: random.Random(f"{seed} {key}") for key in ranges}
    found: list[dict[str, float]] = []
    for _ in range(_TRIES * count):
        drawn = {key: each.at(generators[key].random()) for key, each in ranges.items()}
        if drawn not in found:
            found.append(drawn)
        if len(found) == count:
            break
    return found
