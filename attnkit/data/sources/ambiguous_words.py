"""Sentences about words with several meanings: a built-in set, or a file."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from attnkit.data.line_files import read_lines
from attnkit.data.sources.base import TextSource
from attnkit.errors import DataError
from attnkit.registry import SOURCES

HELD_OUT = 0.1
"""Share of the sentences of each sense that is validation text."""

GRAMMAR = "ambiguous_words.yaml"


class Usage(NamedTuple):
    """A sentence that uses a word in one of its senses."""

    word: str
    sense: str
    sentence: str


@SOURCES.register("ambiguous_words")
class AmbiguousWords(TextSource):
    """Sentences about words with several meanings, such as `mole`: animal, unit, mark on skin.

    The built-in set has ten words with two or three senses each. Its sentences come from a small
    grammar, no download. All senses share the frames of their sentences, and differ in the words
    that fill them. A tenth of the sentences of each sense is validation text. A document is one
    sentence.

    Args:
        file: your own sentences, UTF-8, one per line: word, tab, sense, tab, sentence. None: the
            built-in set.
        sentences: number of sentences to generate for each sense; not used with `file`.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        sentences: int = 400,
    ) -> None:
        if not 3 <= sentences <= MOST_SENTENCES:
            raise DataError(f"data.sentences must be from 3 to {MOST_SENTENCES}, got {sentences}")
        self.file = file
        self.sentences = sentences

    def usages(self, split: str | None = None) -> list[Usage]:
        """Returns the sentences of a split with their word and sense; None: of both.

        Raises:
            DataError: if the file is missing or damaged, or the split does not exist.
        """
        if split is None:
            return [usage for each in self._by_split.values() for usage in each]
        self.check_split(split)
        return self._by_split[split]

    def documents(self, split: str) -> Iterator[str]:
        """Yields the sentences of a split."""
        yield from (usage.sentence for usage in self.usages(split))

    def num_bytes(self, split: str) -> int:
        return sum(len(text.encode()) for text in self.documents(split))

    def fingerprint(self) -> str:
        return hashlib.sha256("\0".join(map("\t".join, self.usages())).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "source": "own grammar of attnkit" if self.file is None else str(self.file),
            "licence": "Apache-2.0" if self.file is None else "the user's own",
            "sentences": {split: len(self.usages(split)) for split in self.splits},
            "bytes": sum(self.num_bytes(split) for split in self.splits),
            "sha256": self.fingerprint(),
        }

    @cached_property
    def _by_split(self) -> dict[str, list[Usage]]:
        usages = drawn_usages(self.sentences) if self.file is None else read_usages(self.file)
        senses: dict[tuple[str, str], list[Usage]] = {}
        for usage in sorted(usages, key=_order):
            senses.setdefault(usage[:2], []).append(usage)
        by_split: dict[str, list[Usage]] = {split: [] for split in self.splits}
        for found in senses.values():
            held_out = max(1, int(len(found) * HELD_OUT))
            by_split["val"] += found[:held_out]
            by_split["train"] += found[held_out:]
        # Neighbours in the text are of different words.
        return {split: sorted(found, key=_order) for split, found in by_split.items()}


def _order(usage: Usage) -> bytes:
    return hashlib.sha256("\t".join(usage).encode()).digest()


MOST_SENTENCES = 1000
"""Limit on the sentences of each sense; the grammar has far more."""


def drawn_usages(count: int) -> Iterator[Usage]:
    """Yields `count` different sentences of each sense of the built-in words."""
    import yaml

    grammar = yaml.safe_load(
        resources.files("attnkit.data.sources").joinpath(GRAMMAR).read_text("utf-8")
    )
    frames = grammar["frames"]
    for word, senses in grammar["words"].items():
        for sense, slots in senses.items():
            fillings = {name: words.split(", ") for name, words in slots.items()}
            # Only the method `random` draws the same numbers in every version of Python.
            numbers = random.Random(f"{word} {sense}")
            made: dict[str, None] = {}
            while len(made) < count:
                drawn = {
                    name: words[int(numbers.random() * len(words))]
                    for name, words in fillings.items()
                }
                text = frames[len(made) % len(frames)].format(word=word, **drawn)
                made[text[0].upper() + text[1:]] = None
            yield from (Usage(word, sense, text) for text in made)


def read_usages(path: Path) -> Iterator[Usage]:
    """Yields the sentences of a file, each once; its lines are word, tab, sense, tab, sentence.

    Raises:
        DataError: if the file is missing, empty or not UTF-8, or if a line does not have three
            columns or its sentence lacks the word; names the line.
    """
    seen: dict[tuple[str, str], str] = {}
    path = Path(path).expanduser()
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 3 or not all(columns):
            raise DataError(
                f"{path}:{number}: expected word, tab, sense, tab, sentence; the line has "
                f"{sum(map(bool, columns))} of them"
            )
        usage = Usage(*columns)
        if place_of(usage) is None:
            raise DataError(
                f"{path}:{number}: the sentence does not contain the word {usage.word!r}; write it "
                "there as in the first column"
            )
        known = seen.setdefault((usage.word, usage.sentence), usage.sense)
        if known != usage.sense:
            raise DataError(
                f"{path}:{number}: the same sentence occurs above with the sense {known!r}; keep "
                "one of them"
            )
    if not seen:
        raise DataError(f"{path} has no sentence; a line is word, tab, sense, tab, sentence")
    for (word, sentence), sense in seen.items():
        yield Usage(word, sense, sentence)


def place_of(usage: Usage) -> tuple[int, int] | None:
    """Returns the characters (first, one past the last) of the word's first occurrence as a whole
    word, in upper or lower case; None: there is none.
    """
    found = re.search(rf"(?<!\w){re.escape(usage.word)}(?!\w)", usage.sentence, re.IGNORECASE)
    return found.span() if found else None


def of_word(usages: Iterable[Usage], word: str, origin: str) -> list[Usage]:
    """Returns the usages of one word.

    Args:
        usages: usages of any words.
        word: the word.
        origin: their origin, for messages.

    Raises:
        DataError: if there is none, or only one sense, or only one sentence of a sense.
    """
    usages = list(usages)
    found = [usage for usage in usages if usage.word == word]
    if not found:
        known = ", ".join(dict.fromkeys(usage.word for usage in usages))
        raise DataError(f"{origin} has no sentence about the word {word!r} (it has: {known})")
    counts = Counter(usage.sense for usage in found)
    if len(counts) < 2:
        raise DataError(
            f"{origin} has only one sense of the word {word!r}, {found[0].sense!r}; add sentences "
            "of another"
        )
    if alone := [sense for sense, count in counts.items() if count < 2]:
        raise DataError(
            f"{origin} has only one sentence about the word {word!r} in the sense {alone[0]!r}; "
            "add another one to compare it with"
        )
    return found
