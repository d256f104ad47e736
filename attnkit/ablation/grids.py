"""Reads the values that a study tries for a key: a list, or a range that they are drawn from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from attnkit.ablation.ranges import Range, draw, is_range, read_range
from attnkit.recipe import AblationOptions
from attnkit.recipe.errors import KeyPath, Mark, Problem, dotted, key_path
from attnkit.recipe.source import Node

Changes = Mapping[KeyPath, Node | Mark]
"""Key -> its value in a variant; for a removed key, the place where the removal is written."""

_NOT_VARIED = ("name", "variant", "seed", "runs_dir", "extends", "ablation", "plugins")
"""Keys that name the place of the runs, or that all variants share."""

MAX_COMBINATIONS = 1000
"""Largest number of combinations of values: of variants, and of candidates of one variant."""


def grid(
    values: Node | None,
    where: str,
    problems: list[Problem],
    options: AblationOptions,
    *,
    with_recipe: bool = False,
) -> list[Changes]:
    """Returns every combination of a mapping of keys to lists, each with every draw of the keys
    that have ranges; one empty combination of no keys.

    Args:
        values: the mapping, as written in the recipe.
        where: its key.
        problems: receives what is wrong with it.
        options: how many combinations of ranges are drawn, and with which seed.
        with_recipe: also return each combination with the recipe's values of the keys with ranges.
    """
    axes: list[list[tuple[KeyPath, Node]]] = []
    ranges: dict[str, tuple[Node, Range]] = {}
    for key, listed in (values.value or {} if values else {}).items():
        path = key_path(key)
        if isinstance(listed.value, str) and is_range(listed.value):
            try:
                found = read_range(listed.value)
            except ValueError as error:
                problems.append(Problem(listed.mark, f"{where}.{key}", str(error)))
            else:
                if may_vary(path, listed.key_mark, where, problems):
                    ranges[key] = listed, found
        elif not isinstance(listed.value, list) or not listed.value:
            message = "expected a list of values, such as [1, 2], or a range, such as 0..0.3"
            problems.append(Problem(listed.mark, f"{where}.{key}", message))
        elif may_vary(path, listed.key_mark, where, problems):
            items = [replace(item, key_mark=listed.key_mark) for item in listed.value]
            axes.append([(path, item) for item in items])
    count = math.prod(map(len, axes)) * (options.draws + with_recipe if ranges else 1)
    if values and are_too_many(count, where, values.key_mark, problems):
        return []
    combinations: list[Changes] = [dict(each) for each in itertools.product(*axes)]
    if not ranges:
        return combinations
    numbers = draw(
        {key: each for key, (_, each) in ranges.items()}, options.draws, options.draw_seed
    )
    if len(numbers) < options.draws:
        mark = next(listed.mark for listed, _ in ranges.values())
        message = (
            f"the ranges have {len(numbers)} combinations, fewer than ablation.draws "
            f"({options.draws}); lower it"
        )
        problems.append(Problem(mark, where, message))
    drawn: list[Changes] = [
        {key_path(key): replace(ranges[key][0], value=number) for key, number in each.items()}
        for each in numbers
    ]
    unchanged: list[Changes] = [{}] if with_recipe else []
    return [{**each, **more} for each in combinations for more in (*unchanged, *drawn)]


def are_too_many(count: int, where: str, mark: Mark, problems: list[Problem]) -> bool:
    """True if there are more combinations than a study may have; then adds the problem."""
    if count > MAX_COMBINATIONS:
        message = f"{count:,} combinations; the limit is {MAX_COMBINATIONS:,}"
        problems.append(Problem(mark, where, message))
    return count > MAX_COMBINATIONS


def drawn_from(section: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what determines a study's draws: ranges, number and seed; None if it has no ranges.

    Args:
        section: `ablation` in plain types.
    """
    ranges = {
        key: written
        for part in ("vary", "tune")
        for key, written in (section[part] or {}).items()
        if isinstance(written, str)
    }
    return (
        {"ranges": ranges, **{key: section[key] for key in ("draws", "draw_seed")}}
        if ranges
        else None
    )


def may_vary(path: KeyPath, mark: Mark, where: str, problems: list[Problem]) -> bool:
    """True if variants may differ in a key; otherwise adds the problem."""
    if path[0] not in _NOT_VARIED:
        return True
    remedy = "; set the seeds in ablation.seeds" if path[0] == "seed" else ""
    message = f"`{path[0]}` is the same for all variants of a study{remedy}"
    problems.append(Problem(mark, f"{where}.{dotted(path)}", message))
    return False


def split_alternatives(overrides: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Separates overrides with several values, `key=a,b`, or a range, from those with one value.

    Commas in brackets, braces or quotes do not separate values.

    Returns:
        The overrides with one value, and key -> values, or the range, for the others.
    """
    single: list[str] = []
    several: dict[str, list[str]] = {}
    for override in overrides:
        key, equals, written = override.partition("=")
        values = list(_at_commas(written))
        # A range of `ablation.tune` is one value.
        drawn = is_range(written) and not key.startswith("ablation.")
        if equals and (len(values) > 1 or drawn) and not override.startswith("~"):
            several[key] = values
        else:
            single.append(override)
    return single, several


def _at_commas(text: str) -> Iterator[str]:
    depth, quote, begin = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[begin:place]
            begin = place + 1
    yield text[begin:]
