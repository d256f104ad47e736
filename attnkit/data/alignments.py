"""Word alignments: links between source and target words, read, projected and scored.

The alignment error rate is that of Och and Ney 2003 (doi:10.1162/089120103321337421, section 4):
with the scored links A, the sure links S and the possible links P, which include the sure ones,

    AER = 1 - (|A & S| + |A & P|) / (|A| + |S|)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from attnkit.data.line_files import read_lines
from attnkit.data.pairs.base import CharacterSpan, SpanLink
from attnkit.errors import DataError

Link = tuple[int, int]
"""Source word and target word, counted from 0."""

WORD = re.compile(r"\d+|[^\W\d]+|[^\w\s]")
"""A word: a number, letters, or a single punctuation mark."""


class Gold(NamedTuple):
    """Sure links, and possible links, which include them."""

    sure: frozenset[Link]
    possible: frozenset[Link]


@dataclass
class AlignmentScore:
    """Counts over sentences; `error_rate` is the AER."""

    predicted: int = 0
    sure: int = 0
    predicted_sure: int = 0
    predicted_possible: int = 0
    with_gold: int = 0
    pointed_right: int = 0

    def add(self, predicted: Iterable[Link], gold: Gold) -> None:
        """Adds the counts of one sentence."""
        links = set(predicted)
        possible = gold.possible | gold.sure
        aligned = {target for _, target in possible}
        self.predicted += len(links)
        self.sure += len(gold.sure)
        self.predicted_sure += len(links & gold.sure)
        self.predicted_possible += len(links & possible)
        self.with_gold += len(aligned)
        self.pointed_right += len({target for _, target in links & possible})

    @property
    def error_rate(self) -> float:
        """The AER; 0 is perfect, NaN without links."""
        total = self.predicted + self.sure
        if not total:
            return float("nan")
        return 1 - (self.predicted_sure + self.predicted_possible) / total

    @property
    def precision(self) -> float:
        """Pointing precision: of the target words with a gold link, the share whose predicted link
        is possible.
        """
        return self.pointed_right / self.with_gold if self.with_gold else float("nan")


def words(text: str, *, split_on_spaces: bool = False) -> list[CharacterSpan]:
    """Returns the words of a text as character spans.

    Args:
        text: any text.
        split_on_spaces: split at white space only, as published alignments of tokenised text do.
    """
    pattern = re.compile(r"\S+") if split_on_spaces else WORD
    return [match.span() for match in pattern.finditer(text)]


def overlaps(a: CharacterSpan, b: CharacterSpan) -> bool:
    """True if two spans share a character."""
    return max(a[0], b[0]) < min(a[1], b[1])


def project(
    links: Iterable[SpanLink], sources: Sequence[CharacterSpan], targets: Sequence[CharacterSpan]
) -> frozenset[Link]:
    """Converts links of characters to links of words or tokens, given by their spans."""
    return frozenset(
        (i, j)
        for link in links
        for i, source in enumerate(sources)
        if overlaps(link.source, source)
        for j, target in enumerate(targets)
        if overlaps(link.target, target)
    )


def gold_of(
    links: Iterable[SpanLink], sources: Sequence[CharacterSpan], targets: Sequence[CharacterSpan]
) -> Gold:
    """Converts the gold links of a pair to sure and possible links of words."""
    links = tuple(links)
    sure = project((link for link in links if link.sure), sources, targets)
    return Gold(sure, project(links, sources, targets))


def token_words(
    offsets: Sequence[CharacterSpan], spans: Sequence[CharacterSpan]
) -> tuple[list[int | None], list[int | None]]:
    """Returns the word of each token (None: no word) and the first token of each word."""
    of_token: list[int | None] = []
    first: list[int | None] = [None] * len(spans)
    for token, offset in enumerate(offsets):
        word = next((w for w, span in enumerate(spans) if overlaps(offset, span)), None)
        of_token.append(word)
        for w, span in enumerate(spans):
            if first[w] is None and overlaps(offset, span):
                first[w] = token
    return of_token, first


def read_alignments(
    path: Path,
    num_sentences: int,
    *,
    form: Literal["pharaoh", "naacl"],
    first_index: Literal[0, 1],
) -> list[Gold]:
    """Reads a gold alignment, one entry per sentence.

    Args:
        path: the file.
        num_sentences: expected number of sentences.
        form: `pharaoh`: one line per sentence, `0-0 1-2`, with `?` or `p` instead of `-` for
            possible links; `naacl`: one line per link, `sentence source target S|P`, where
            sentences count from 1 and S is optional.
        first_index: number of the first word, 0 or 1; the files do not state it.

    Raises:
        DataError: if the file is missing or a line cannot be read; names the line.
    """
    read = {"pharaoh": _read_pharaoh, "naacl": _read_naacl}[form]
    sure, possible = read(path, read_lines(path), num_sentences, first_index)
    return [Gold(frozenset(s), frozenset(s | p)) for s, p in zip(sure, possible, strict=True)]


def _read_pharaoh(
    path: Path, lines: list[str], num_sentences: int, first_index: int
) -> tuple[list[set[Link]], list[set[Link]]]:
    if len(lines) != num_sentences:
        raise DataError(
            f"{path} has {len(lines):,} lines for {num_sentences:,} sentences; an alignment in "
            "Pharaoh form has one line per sentence"
        )
    sure: list[set[Link]] = [set() for _ in lines]
    possible: list[set[Link]] = [set() for _ in lines]
    for number, line in enumerate(lines):
        for entry in line.split():
            match = re.fullmatch(r"(\d+)([-?p])(\d+)", entry)
            if match is None:
                raise DataError(f"{path}:{number + 1}: {entry!r} is not a link such as 3-4")
            link = _link(path, number + 1, match[1], match[3], first_index)
            (sure if match[2] == "-" else possible)[number].add(link)
    return sure, possible


def _read_naacl(
    path: Path, lines: list[str], num_sentences: int, first_index: int
) -> tuple[list[set[Link]], list[set[Link]]]:
    sure: list[set[Link]] = [set() for _ in range(num_sentences)]
    possible: list[set[Link]] = [set() for _ in range(num_sentences)]
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\d+)(?:\s+([SP]))?\s*", line)
        if match is None:
            if not line.strip():
                continue
            raise DataError(f"{path}:{number}: expected `sentence source target S|P`, got {line!r}")
        sentence = int(match[1])
        if not 1 <= sentence <= num_sentences:
            raise DataError(
                f"{path}:{number}: sentence {sentence} is not one of 1 to {num_sentences}"
            )
        link = _link(path, number, match[2], match[3], first_index)
        (possible if match[4] == "P" else sure)[sentence - 1].add(link)
    return sure, possible


def _link(path: Path, number: int, source: str, target: str, first_index: int) -> Link:
    link = (int(source) - first_index, int(target) - first_index)
    if min(link) < 0:
        raise DataError(
            f"{path}:{number}: word 0 in a file whose words count from 1; set the first index to 0"
        )
    return link
