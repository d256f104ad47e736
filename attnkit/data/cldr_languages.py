"""Expresses one meaning in four languages: with the templates and words of `cldr_words`, and with
dates, times, units, currencies and relative times from Unicode's CLDR as shipped with Babel.

A sentence is a list of pieces. A piece has a key if it stands for a part of the meaning; pieces of
two languages with the same key translate each other, which gives the gold alignment. A key may have
a second part: `who.the` is the article of `who`, `act.aux` the auxiliary of `act`.

Avoids counts of one and weekdays in German dates (they need another case), AM and PM in Korean (it
uses wide day periods), Korean units without a long form, and narrow or non-breaking spaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from functools import cache
from typing import NamedTuple

from attnkit.data.cldr_words import (
    ACT,
    CHOICES,
    CONTRACTIONS,
    DO,
    TEMPLATES,
    THING,
    WHAT,
    WHO,
)

Language = str
"""`en`, `de`, `ko` or `fr`."""


class Piece(NamedTuple):
    """A part of a sentence, with the key of the meaning that it stands for, if any."""

    text: str
    key: str | None = None


Meaning = Mapping[str, str | int]
"""Slot -> its language-independent value: `{"who": "doctor", "count": 40, "unit": ...}`."""

_PART = re.compile(r"\{\w+\}|[^\s{}:]+:[\w.]+|\s+")
"""A slot, a word with its key, or spaces."""

_COLUMN = {"en": 0, "de": 1, "ko": 2, "fr": 3}


def express(template: str, meaning: Meaning, language: Language, prefix: str = "") -> list[Piece]:
    """Expresses a meaning in a language.

    Args:
        template: a key of `cldr_words.TEMPLATES`.
        meaning: values of the template's slots.
        language: `en`, `de`, `ko` or `fr`.
        prefix: prepended to every key, to distinguish the sentences of a text.
    """
    pieces: list[Piece] = []
    for part in _PART.findall(TEMPLATES[template][language]):
        if part.startswith("{"):
            pieces += _slot(template, part[1:-1], meaning, language)
        else:
            pieces.append(Piece(*part.split(":")))  # spaces have no key
    pieces = [piece for piece in pieces if piece.text]
    if language == "de":
        pieces = _contracted(pieces)
    if language == "ko":
        pieces = _fused(pieces)
    first = pieces[0]
    pieces[0] = Piece(first.text[:1].upper() + first.text[1:], first.key)
    return [Piece(text, None if key is None else prefix + key) for text, key in pieces]


def _contracted(pieces: list[Piece]) -> list[Piece]:
    """Contracts `von dem` to `vom`; each half keeps its key."""
    found: list[Piece] = []
    for piece in pieces:
        before = found[-2] if len(found) > 1 and found[-1].text == " " else None
        halves = before and CONTRACTIONS.get((before.text, piece.text))
        if before and halves:
            found[-2:] = [Piece(halves[0], before.key), Piece(halves[1], piece.key)]
        else:
            found.append(piece)
    return found


def _fused(pieces: list[Piece]) -> list[Piece]:
    """Contracts `이었` to `였` after a vowel."""
    found: list[Piece] = []
    for piece in pieces:
        text = piece.text
        if text.startswith("이었") and not _ends_in_consonant(found[-1].text):
            text = text.replace("이었", "였", 1)
        found.append(Piece(text, piece.key))
    return found


def _slot(template: str, slot: str, meaning: Meaning, language: Language) -> list[Piece]:
    value = meaning[slot]
    if slot == "count":
        return [Piece(str(value), "count")]
    if slot == "unit":
        unit = _unit(str(value), language)
        particle = _object(unit) if language == "ko" and template == "lose" else ""
        return [Piece(unit, "unit"), Piece(particle)]
    if slot == "money":
        return _money(template, meaning, language)
    if slot == "when":
        return _relative(str(value), int(meaning["span"]), str(meaning["period"]), language)
    if slot in CHOICES:
        key = "act.aux" if slot == "aux" else slot
        return _small_words(CHOICES[slot][str(value)][_COLUMN[language]], key)
    if slot == "act":
        return _act(ACT[str(value)], meaning["aux"] == "had", language)
    if slot == "do":
        column = {"en": 0, "de": 1, "ko": 3 if meaning["modal"] == "must" else 2, "fr": 4}[language]
        return [Piece(DO[str(value)][column], slot)]
    if slot == "date":
        return _date(str(value), language)
    if slot == "clock":
        return _clock(str(value), language)
    return _noun(template, slot, meaning, language)


def _small_words(text: str, key: str) -> list[Piece]:
    """Splits into words and marks, all with one key, and the text between them."""
    found = re.findall(r"\s+|\w+|[^\w\s]", text)
    return [Piece(part, None if part.isspace() else key) for part in found]


def _act(
    forms: tuple[str, str, str, str, str], is_earlier: bool, language: Language
) -> list[Piece]:
    """Returns a verb in the past or past perfect; German and French mark the tense by `{aux}`."""
    past, participle, german, korean, french = forms
    if language == "en":
        aux = [Piece("had", "act.aux"), Piece(" ")] if is_earlier else []
        return [*aux, Piece(participle if is_earlier else past, "act")]
    if language == "ko":
        return [Piece(korean.replace("습니다", "었습니다") if is_earlier else korean, "act")]
    return [Piece(german if language == "de" else french, "act")]


def _noun(template: str, slot: str, meaning: Meaning, language: Language) -> list[Piece]:
    """Returns a noun with the article or particle that the template needs."""
    value = str(meaning[slot])
    if slot in ("thing", "a", "b"):
        row = THING[value]
        is_accusative = slot == "thing" and meaning["place"] == "for"
        column = {"en": 0, "de": 1 if is_accusative else 2, "ko": 3, "fr": 4}[language]
    else:
        row = (WHO if slot == "who" else WHAT)[value]
        column = _COLUMN[language]
    word = row[column]
    if language == "en":
        return [Piece(word, slot)]
    if language == "ko":
        topic = slot == "who" or (slot == "what" and template == "cost")
        return [Piece(word, slot), Piece(_topic(word) if topic else "")]
    article, _, noun = word.partition(" ")
    if slot == "what" and template == "lose":  # a measured substance takes no article
        return [Piece(noun, slot)]
    return [Piece(article, f"{slot}.the"), Piece(" "), Piece(noun, slot)]


@cache
def _unit(unit: str, language: Language) -> str:
    from babel.units import format_unit

    for length in ("long", "short"):
        text = format_unit(40, unit, length, format="0", locale=language)  # pyright: ignore
        name = _plain(text).replace("40", "").strip()
        if name != unit:  # Babel returns the unit's own id where the language has no such form
            return name
    raise LookupError(f"CLDR has no {unit} in {language}")


@cache
def _currency(currency: str, language: Language) -> str:
    """Returns the plural name, as used after a number within a sentence."""
    from babel.numbers import format_currency

    text = format_currency(
        40, currency, locale=language, format_type="name", currency_digits=False, format="0"
    )
    name = _plain(text).replace("40", "").strip()
    if language == "de":  # CLDR's names are capitalised: Britische Pfund
        name = re.sub(r"^\w(?=\w*ische )", lambda letter: letter[0].lower(), name)
    return name


def _money(template: str, meaning: Meaning, language: Language) -> list[Piece]:
    name = _currency(str(meaning["money"]), language)
    particle = _object(name) if language == "ko" and template == "pay" else ""
    return [
        Piece(str(meaning["price"]), "price"),
        Piece(" "),
        Piece(name, "money"),
        Piece(particle),
    ]


@cache
def _relative(when: str, span: int, period: str, language: Language) -> list[Piece]:
    """Returns a relative time: `3 weeks ago` and `in 3 weeks` from CLDR; `after 3 weeks` and
    `within 3 weeks` from our words and CLDR's unit.
    """
    from babel.dates import format_timedelta

    delta = timedelta(**{f"{period}s": span})
    text = _plain(
        format_timedelta(
            -delta if when == "ago" else delta,
            granularity=period,  # pyright: ignore[reportArgumentType]
            threshold=10_000,
            add_direction=True,
            locale=language,
        )
    )
    before, number, after = text.partition(str(span))
    unit, _, direction = after.strip().partition(" ")
    word = CHOICES["when"][when][_COLUMN[language]]
    if word:
        before, direction = ("", word) if language == "ko" else (word, "")
    elif (when, language) == ("ago", "ko"):
        direction += "에"  # in a sentence, CLDR's `3주 전` takes a particle
    space = " " if after.startswith(" ") else ""
    pieces = [*_small_words(before.strip(), "when"), Piece(" " if before else "")]
    pieces += [Piece(number, "span"), Piece(space), Piece(unit, "period")]
    return [*pieces, Piece(" " if direction else ""), *_small_words(direction, "when")]


@cache
def _date(iso: str, language: Language) -> list[Piece]:
    from babel.dates import format_date, get_date_format, tokenize_pattern

    day = date.fromisoformat(iso)
    keys = {"M": "month", "d": "day", "y": "year"}
    pieces, last = [], ""
    for kind, value in tokenize_pattern(get_date_format("long", locale=language).pattern):
        if kind == "chars":
            mark, space = _plain(str(value)).strip(), " " * str(value)[-1].isspace()
            # `3.` and `1967년` are kept together; an English comma is separate.
            pieces += [Piece(mark, None if language == "en" else f"{last}.mark"), Piece(space)]
        else:
            symbol, width = str(value[0]), int(value[1])
            text = format_date(day, symbol * width, locale=language)
            last = keys[symbol]
            pieces.append(Piece(_plain(text), last))
    return pieces


@cache
def _clock(iso: str, language: Language) -> list[Piece]:
    moment = time.fromisoformat(iso)
    colon, minute = Piece(":", "colon"), Piece(f"{moment.minute:02}", "minute")
    hour12 = str((moment.hour - 1) % 12 + 1)
    period = "am" if moment.hour < 12 else "pm"
    if language == "en":
        return [
            Piece(hour12, "hour"),
            colon,
            minute,
            Piece(" "),
            Piece(period.upper(), "half"),
        ]
    if language == "ko":  # CLDR's names of AM and PM are Latin letters, which nobody uses
        name = "오전" if period == "am" else "오후"
        return [Piece(name, "half"), Piece(" "), Piece(hour12, "hour"), colon, minute]
    return [Piece(f"{moment.hour:02}", "hour"), colon, minute]


def _plain(text: str) -> str:
    """Replaces narrow and non-breaking spaces by spaces."""
    return text.replace("\u202f", " ").replace("\u00a0", " ")


def _ends_in_consonant(word: str) -> bool:
    """True if a word ends in a final consonant, which decides the form of its particle."""
    place = ord(word[-1]) - 0xAC00
    return 0 <= place < 11172 and place % 28 != 0


def _topic(word: str) -> str:
    return "은" if _ends_in_consonant(word) else "는"


def _object(word: str) -> str:
    return "을" if _ends_in_consonant(word) else "를"
