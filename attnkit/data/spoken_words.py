"""Generates sentences for speech: numbers, dates, times and everyday words, in letters a to z."""

from __future__ import annotations

import random
from collections.abc import Iterable

from attnkit.data import cldr_words as words

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip
"""Ordinals that are not the number followed by `th`."""

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
UNITS = ("grams", "pounds", "gallons", "bags", "boxes", "cups")
PERIODS = ("days", "weeks", "hours", "years")
PARTS = ("morning", "evening", "afternoon")
COLOURS = ("red", "green", "blue", "white", "black", "yellow")
MONEY = ("dollars", "pounds", "euros", "cents")


def in_words(number: int) -> str:
    """Returns a number from 0 to 999 in words: 42 -> "forty two"."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f" {SMALL[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{SMALL[hundreds]} hundred" + (f" {in_words(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """Returns a number from 1 to 99 as an ordinal in words: 22 -> "twenty second"."""
    *before, last = in_words(number).split()
    ending = f"{last[:-1]}ieth" if last.endswith("y") else f"{last.removesuffix('t')}th"
    return " ".join([*before, ORDINALS.get(last, ending)])


def year(number: int) -> str:
    """Returns a year from 1900 to 1999 as it is spoken: 1987 -> "nineteen eighty seven"."""
    rest = number % 100
    if not rest:
        return "nineteen hundred"
    return f"nineteen {'o ' if rest < 10 else ''}{in_words(rest)}"


def sentence(draw: random.Random) -> str:
    """Draws a sentence of a few words."""

    def number() -> str:
        return in_words(draw.randint(2, 10 ** draw.choice((1, 2, 2, 3)) - 1))

    def one_of(choices: Iterable[str]) -> str:
        return draw.choice(list(choices))

    day = f"{one_of(MONTHS)} {ordinal(draw.randint(1, 31))}"
    who, thing, what = one_of(words.WHO), one_of(words.THING), one_of(words.WHAT)
    act, do = words.ACT[one_of(words.ACTS["lose"])][0], one_of(words.DO)
    return draw.choice(
        (
            f"{number()} {one_of(UNITS)} of {what}",
            f"the {who} {act} {number()} {one_of(UNITS)}",
            f"{day} {year(draw.randint(1900, 1999))}",
            f"the {who} will {do} on {day}",
            f"{one_of(('at', 'before', 'after'))} {in_words(draw.randint(1, 12))} in the "
            f"{one_of(PARTS)}",
            f"the {one_of(COLOURS)} {thing} costs {number()} {one_of(MONEY)}",
            f"the {who} can {do} in {number()} {one_of(PERIODS)}",
            f"good {one_of(PARTS)} to the {who}",
        )
    )
