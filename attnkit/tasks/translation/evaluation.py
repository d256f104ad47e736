"""Scores a trained translation run on any data, and shows the scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.text import Text

from attnkit.console import numbers_table
from attnkit.data.alignments import AlignmentScore, Gold, gold_of, read_alignments, words
from attnkit.data.line_files import read_aligned
from attnkit.data.pairs.base import Pair, PairSource
from attnkit.errors import DataError
from attnkit.models.beam_search import Search
from attnkit.registry import PAIRS
from attnkit.tasks.translation import alignment
from attnkit.tasks.translation.scores import Scores, moses_lowercased_bleu, score
from attnkit.tasks.translation.translator import Translator, spaced

log = logging.getLogger("attnkit")

MOST_WRONG = 0.01
"""Maximum share of gold links that point beyond their sentences."""


@dataclass(frozen=True)
class TestSet:
    """Pairs to score.

    Attributes:
        name: name of the set.
        pairs: sources with one reference each.
        gold: their word alignments, or None.
        split_on_spaces: True if the words of `gold` are separated by white space.
    """

    __test__ = False  # otherwise pytest would collect it

    name: str
    pairs: Sequence[Pair]
    gold: Sequence[Gold] | None = None
    split_on_spaces: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The scores of a test set.

    Attributes:
        name: name of the test set.
        count: number of sentences.
        loss: nats per target token of the references.
        scores: BLEU, chrF, exact match.
        moses: BLEU over lowercased, Moses-tokenised text and its signature; None: not requested.
        alignments: place -> score against gold alignments; empty if there are none.
        hypotheses: the translations.
    """

    name: str
    count: int
    loss: float
    scores: Scores
    moses: tuple[float, str] | None
    alignments: dict[alignment.Place, AlignmentScore]
    hypotheses: list[str]


def test_sets(
    translator: Translator,
    names: Sequence[str],
    gold: Path | None,
    *,
    form: Literal["pharaoh", "naacl"],
    first_index: int | None,
) -> list[TestSet]:
    """Reads all test sets, before anything is translated.

    Args:
        translator: the run, whose splits may be named.
        names: splits, or `SOURCE,TARGET` files; empty: all test splits of the run's data.
        gold: alignments of the single pair of files, or None.
        form: format of the alignments.
        first_index: number of the first word in them, required with `gold`.

    Raises:
        DataError: if something is missing or does not match.
    """
    source: PairSource = PAIRS.build(translator.recipe.data)
    if not names and not source.test_splits:
        raise DataError("the run's data has no test split; name some with --data")
    found = [_test_set(source, name) for name in names or source.test_splits]
    if gold is None:
        return found
    if len(found) != 1 or "," not in found[0].name:
        raise DataError("--gold belongs to one --data SOURCE,TARGET; use exactly one")
    if first_index not in (0, 1):
        raise DataError(
            f"specify whether the words in {gold} count from 0 or from 1: --gold-index 0, or 1"
        )
    alignments = read_alignments(
        gold,
        len(found[0].pairs),
        form=form,
        first_index=first_index,  # pyright: ignore[reportArgumentType]
    )
    inside = _within(gold, alignments, found[0].pairs)
    return [TestSet(found[0].name, found[0].pairs, inside, split_on_spaces=True)]


test_sets.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


def _test_set(source: PairSource, name: str) -> TestSet:
    if "," in name:
        first, _, second = name.partition(",")
        lines = read_aligned(Path(first).expanduser(), Path(second).expanduser())
        return TestSet(name, [Pair(*line) for line in lines])
    if Path(name).expanduser().is_file():
        raise DataError(
            f"--data {name}: a translation is scored against references; name two files with the "
            f"same number of lines, --data {name},REFERENCES"
        )
    source.check_split(name)
    pairs = list(source.pairs(name))
    if pairs[0].links is None:
        return TestSet(name, pairs)
    gold = [gold_of(pair.links or (), words(pair.source), words(pair.target)) for pair in pairs]
    return TestSet(name, pairs, gold)


def _within(path: Path, gold: Sequence[Gold], pairs: Sequence[Pair]) -> list[Gold]:
    """Leaves out links to words that a sentence does not have; published files contain a few.

    Raises:
        DataError: if there are more than a few, which indicates a wrong first index or file.
    """
    kept, first_wrong, count = [], "", 0
    for number, (links, pair) in enumerate(zip(gold, pairs, strict=True), start=1):
        sizes = [len(words(text, split_on_spaces=True)) for text in pair[:2]]
        inside = {(i, j) for i, j in links.possible if i < sizes[0] and j < sizes[1]}
        for source, target in sorted(links.possible - inside)[: 1 if not first_wrong else 0]:
            first_wrong = (
                f"sentence {number} has {sizes[0]} and {sizes[1]} words, but a link between words "
                f"{source} and {target}, counted from 0"
            )
        count += len(links.possible - inside)
        kept.append(Gold(links.sure & inside, frozenset(inside)))
    if count > MOST_WRONG * sum(len(links.possible) for links in gold):
        raise DataError(
            f"{path}: {count:,} links point beyond their sentences (the first: {first_wrong}); "
            "check --gold-index and the order of the two files"
        )
    if count:
        log.warning("%s: %s left out, beyond its sentence: %s", path, count, first_wrong)
    return kept


def evaluate(
    translator: Translator,
    test_set: TestSet,
    search: Search,
    moses: Callable[[str], str] | None = None,
    output: Path | None = None,
) -> Evaluation:
    """Translates and scores a test set.

    Args:
        translator: the run.
        test_set: the test set.
        search: options of the search.
        moses: from `moses_tokenizer`, for BLEU over its lowercased output; None: not requested.
        output: folder for the translations, one file per test set; None: not written.
    """
    sources = [pair.source for pair in test_set.pairs]
    references = [pair.target for pair in test_set.pairs]
    lines = translator.translate(sources, search)
    hypotheses = [line.translations[0].text for line in lines]
    scored = {}
    if test_set.gold is not None:
        sentences = [
            spaced(pair.source, pair.target)
            if test_set.split_on_spaces
            else alignment.Sentence(*pair[:2], words(pair.source), words(pair.target))
            for pair in test_set.pairs
        ]
        gold = zip(sentences, test_set.gold, strict=True)
        scored = alignment.score_places(translator.model, translator.tokenizers, gold)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(test_set.name).name)
        text = "".join(f"{line}\n" for line in hypotheses)
        (output / f"{name}.txt").write_text(text, encoding="utf-8")
    return Evaluation(
        test_set.name,
        len(sources),
        translator.loss(translator.store(test_set.pairs)),
        score(hypotheses, references),
        None if moses is None else moses_lowercased_bleu(hypotheses, references, moses),
        scored,
        hypotheses,
    )


def shown(found: Evaluation) -> Iterator[Any]:
    """Yields the report on a test set: its scores, their signatures, its alignments."""
    table = numbers_table(f"{found.name}, {found.count:,} sentences")
    signatures = [("BLEU", found.scores.signatures["bleu"])]
    table.add_row("BLEU", f"{found.scores.bleu:.2f}", "cased, tokenised by 13a")
    if found.moses is not None:
        signatures.append(("BLEU, Moses", found.moses[1]))
        table.add_row("BLEU, Moses", f"{found.moses[0]:.2f}", "lowercased, Moses-tokenised")
    signatures.append(("chrF", found.scores.signatures["chrf"]))
    table.add_row("chrF", f"{found.scores.chrf:.2f}", "")
    table.add_row("exact match", f"{found.scores.exact_match:.1f} %", "")
    table.add_row("loss", f"{found.loss:.4f}", "nats per target token, teacher-forced")
    yield table
    for name, signature in signatures:
        yield Text(f"{name}: {signature}")
    if found.alignments:
        place = alignment.best_place(found.alignments)
        yield (
            f"alignment error rate {found.alignments[place].error_rate:.3f}: {place}, the best of "
            "these; rows predict their token, or (for comparison) read it"
        )
        yield Text(alignment.table(found.alignments))
