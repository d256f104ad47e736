"""Generated translations of dates, times, units, currencies and quantities, from Unicode's locale
data (CLDR, through Babel) and our own sentences, with gold word alignments.
"""

from __future__ import annotations

import importlib.metadata
import random
import re
from collections.abc import Iterator
from datetime import date
from itertools import product
from typing import Any, Literal, NamedTuple

from attnkit.data import cldr_words as words
from attnkit.data.cldr_languages import Meaning, Piece, express
from attnkit.data.pairs.base import Pair, PairSource, SpanLink, SplitByText, sha256_of_texts
from attnkit.errors import DataError
from attnkit.registry import PAIRS

NAMES = {"de": "German", "ko": "Korean", "fr": "French"}

HARD = ("test_numbers", "test_length")

VERSION = "3"
"""Version of the sentences; increased when templates, words or the drawing change."""


@PAIRS.register("cldr_pairs")
class CldrPairs(PairSource):
    """Generated sentences, English to German, Korean or French, with gold alignments; no download.

    "The doctor lost 40 gallons of salt 3 weeks ago." becomes "Der Arzt hat vor 3 Wochen 40 Gallonen
    Salz verloren."

    There are four held-out sets: `val` and `test` resemble the training data (one or two sentences,
    numbers of up to three digits), `test_numbers` has numbers of four and five digits,
    `test_length` three sentences in a row. All have gold alignments as character spans.

    Args:
        target: the language to translate into.
        num_train: number of training pairs.
        num_val: number of pairs of each other set.
        data_seed: draws the sentences, independently of the run's seed.
    """

    exact_match = True
    source_language = "English"

    def __init__(
        self,
        *,
        target: Literal["de", "ko", "fr"] = "de",
        num_train: int = 20000,
        num_val: int = 500,
        data_seed: int = 0,
    ) -> None:
        if min(num_train, num_val) < 1:
            raise DataError("data.num_train and data.num_val must be at least 1")
        self.target = target
        self.target_language = NAMES[target]
        self.num_train = num_train
        self.num_val = num_val
        self.data_seed = data_seed
        self._split_of = SplitByText({"val": 5, "test": 5})

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The regular test set, and the two hard ones."""
        return ("test", *HARD)

    def pairs(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of a split; no source sentence is in two splits."""
        self.check_split(split)
        count = self.num_train if split == "train" else self.num_val
        draw = random.Random(f"{self.data_seed} {split}")
        seen: set[str] = set()
        while len(seen) < count:
            clauses = self._clauses(draw, split)
            source = self._text(clauses, "en")
            sentence = _joined(source)
            # For a small split, most draws belong to another split: check that before doing the
            # rest.
            if sentence in seen or (split not in HARD and self._split_of(sentence) != split):
                continue
            seen.add(sentence)
            target = self._text(clauses, self.target)
            yield Pair(sentence, _joined(target), _links(source, target))

    def _clauses(self, draw: random.Random, split: str) -> list[tuple[str, Meaning]]:
        digits = (4, 5) if split == "test_numbers" else (1, 3)
        count = 3 if split == "test_length" else (1 if draw.random() < 0.85 else 2)
        return [meaning(draw, digits) for _ in range(count)]

    def _text(self, clauses: list[tuple[str, Meaning]], language: str) -> list[Piece]:
        pieces: list[Piece] = []
        for number, (template, slots) in enumerate(clauses):
            if number:
                pieces.append(Piece(" "))
            pieces += express(template, slots, language, prefix=f"{number}.")
        return pieces

    def fingerprint(self) -> str:
        """Returns a sha256 over the options and the version of the locale data."""
        babel = importlib.metadata.version("babel")
        options = [self.target, self.num_train, self.num_val, self.data_seed]
        return sha256_of_texts(["cldr_pairs", VERSION, babel, *map(str, options)])

    def describe(self) -> dict[str, Any]:
        return {
            "source": f"sentences from CLDR (Babel {importlib.metadata.version('babel')})",
            "licence": "Unicode-3.0 (locale data)",
            "target": self.target,
            "pairs": {"train": self.num_train, "val": self.num_val}
            | dict.fromkeys(self.test_splits, self.num_val),
            "sha256": self.fingerprint(),
        }


def meaning(draw: random.Random, digits: tuple[int, int]) -> tuple[str, Meaning]:
    """Draws a template and the values of its slots.

    Args:
        draw: source of randomness.
        digits: smallest and largest number of digits of counts and prices; counts of one are never
            drawn.
    """

    def number() -> int:
        length = draw.randint(*digits)
        return draw.randint(max(2, 10 ** (length - 1)), 10**length - 1)

    template = draw.choice(list(words.TEMPLATES))
    units = {"lose": words.AMOUNTS, "far": words.LENGTHS}.get(template, words.MASSES)
    first, second = draw.sample(list(words.THING), 2)
    # In the past, like the verb.
    day = date(draw.randint(1900, 2020), draw.randint(1, 12), draw.randint(2, 28))
    slots: dict[str, str | int] = {
        "who": draw.choice(list(words.WHO)),
        "what": draw.choice(list(words.WHAT)),
        "act": draw.choice(words.ACTS.get(template, ("",))),
        "do": draw.choice(list(words.DO)),
        "thing": first,
        "a": first,
        "b": second,
        "count": number(),
        "unit": draw.choice(units),
        "price": number(),
        "money": draw.choice(words.CURRENCIES),
        "span": draw.randint(2, 30),
        "period": draw.choice(words.PERIODS),
        "date": day.isoformat(),
        "clock": f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}",
    }
    slots |= {slot: draw.choice(list(choices)) for slot, choices in words.CHOICES.items()}
    slots["when"] = draw.choice(words.WHENS.get(template, ("",)))
    return template, slots


def _joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


class _Place(NamedTuple):
    """Start of a piece, its text, and whether it is the content of its key."""

    start: int
    text: str
    is_content: bool


def _places(pieces: list[Piece]) -> dict[str, list[_Place]]:
    """Maps the clause and the first part of a key to its pieces."""
    places: dict[str, list[_Place]] = {}
    at = 0
    for text, key in pieces:
        if key is not None:
            clause, name, *rest = key.split(".")
            content = not rest and name not in words.FUNCTION_WORDS
            places.setdefault(f"{clause}.{name}", []).append(_Place(at, text, content))
        at += len(text)
    return places


def _links(source: list[Piece], target: list[Piece]) -> tuple[SpanLink, ...]:
    """Links pieces with the same key: content words surely, function words possibly.

    An article or auxiliary also has a possible link to the word that determines its form.
    """
    targets = _places(target)
    return tuple(
        link
        for key, froms in _places(source).items()
        for a, b in product(froms, targets.get(key, ()))
        for link in _linked(a, b)
    )


def _linked(a: _Place, b: _Place) -> Iterator[SpanLink]:
    """Links a copied number digit by digit, phrases of equal length word by word, others as a
    whole.
    """
    sure = a.is_content and b.is_content
    patterns = (r"\d", r"\S+") if a.text == b.text else (r"\S+",)
    for pattern in map(re.compile, patterns):
        spans = [[m.span() for m in pattern.finditer(place.text)] for place in (a, b)]
        if len(spans[0]) == len(spans[1]) > 0:
            for (i, j), (k, m) in zip(*spans, strict=True):
                yield SpanLink((a.start + i, a.start + j), (b.start + k, b.start + m), sure)
            return
    yield SpanLink((a.start, a.start + len(a.text)), (b.start, b.start + len(b.text)), sure)
