"""Formats the results of the clinic for the terminal and for files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from attnkit.errors import UserError
from attnkit.storage.files import atomic_write
from attnkit.tensorboard.clinic_history import FILE, extended, formed, read_history
from attnkit.tensorboard.clinic_history import as_json as history_as_json
from attnkit.tensorboard.untrusted import MapFormatError
from attnkit.understanding.clinic import Examination, Head

COLUMNS = {
    "zero": "knock_out_zero",
    "mean": "knock_out_mean",
    "entr": "entropy",
    "dist": "distance",
    "first": "first",
    "own": "current",
    "prev": "previous",
    "dupl": "duplicate",
    "indu": "induction",
    "diag": "diagonality",
    "AER": "alignment_error",
    "copy": "copying",
    "max": "largest_score",
    "rank": "effective_rank",
}
"""Heading -> score, in the order of the columns."""

SIGNED = ("copying", "diagonality")
"""Scores that are shown with their sign."""

LEGEND = {
    "zero": "rise of the loss with zeros in place of the head",
    "mean": "rise of the loss with the mean of its output in place of the head",
    "entr": "entropy of its weights, in nats",
    "dist": "mean distance from query to key, in tokens",
    "first": "mass on the first key",
    "own": "mass on the query's own token *",
    "prev": "mass on the previous token *",
    "dupl": "mass on an earlier copy of the token *",
    "indu": "mass on the token after an earlier copy of the token *",
    "diag": "1: on the diagonal, 0: as far from it as equal weights",
    "AER": "alignment error rate",
    "copy": "1: raises the logits of the tokens that it attends to, -1: lowers them",
    "max": "largest score of a query and a key",
    "rank": "effective rank of its map",
}
"""Heading -> meaning of the column; *: see `REPEATED`."""

REPEATED = "*: on random tokens, repeated once"

WORDS = {
    "even": "nearly equal weights",
    "local": "small distances",
    "mixed": "no clear pattern",
}
"""Words for heads without a clear pattern."""


def _legend(heads: Sequence[Head]) -> Iterator[str]:
    """Yields a line for each column of the tables, and for each word in them without a column."""
    lines = [f"{heading:5} {LEGEND[heading]}" for heading in _columns(heads)]
    yield from lines
    if any(line.endswith("*") for line in lines):
        yield REPEATED
    words = {head.word for head in heads}
    yield from (f"{word:5} {meaning}" for word, meaning in WORDS.items() if word in words)


def _columns(heads: Sequence[Head]) -> dict[str, str]:
    """Returns heading -> score, for the scores that at least one head has."""
    return {
        heading: score
        for heading, score in COLUMNS.items()
        if any(score in head.scores for head in heads)
    }


def shown(found: Examination, title: str, limit: int | None = None) -> Iterator[Any]:
    """Yields what a terminal prints: a table per kind of attention, its legend, and notes.

    Args:
        found: what the clinic found.
        title: of the table, such as the run.
        limit: most heads in a table; None: all.
    """
    if found.loss is not None:
        yield f"{title}: loss {found.loss:.4f} on {found.num_targets:,} targets"
    else:
        yield title
    of_site = sorted(found.ranked, key=lambda head: head.site)
    for site, group in groupby(of_site, key=lambda head: head.site):
        heads = list(group)
        yield _table(site, heads[:limit])
        if limit is not None and len(heads) > limit:
            yield f"... and {len(heads) - limit} heads that the model needs less"
    yield from _legend(of_site)
    yield from (f"note: {note}" for note in found.notes)


def _table(site: str, heads: Sequence[Head]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=0)
    table.add_column("head" if site == "self" else site, no_wrap=True)
    table.add_column("is for", no_wrap=True)
    used = _columns(heads)
    for heading in used:
        table.add_column(heading, justify="right", no_wrap=True)
    for head in heads:
        numbers = [_number(score, head.scores.get(score)) for score in used.values()]
        table.add_row(f"L{head.layer}H{head.head}", head.word, *numbers)
    return table


def _number(score: str, value: float | None) -> str:
    """Formats a score, in at most five characters where it is of usual size."""
    if value is None:
        return "-"
    if score in ("distance", "largest_score", "effective_rank"):
        return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
    if score.startswith("knock_out"):
        return f"{value:+.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:+.2f}"
    words = f"{value:+.2f}" if score in SIGNED else f"{value:.2f}"
    return words.replace("0.", ".", 1) if abs(value) < 0.995 else words


def as_json(found: Examination) -> str:
    """Returns all numbers as JSON: `loss`, `num_targets`, and `heads`, the most needed first."""
    heads = [
        {
            "name": head.name,
            "mechanism": head.mechanism,
            "word": head.word,
            "evidence": head.evidence,
        }
        | {"scores": dict(head.scores)}
        for head in found.ranked
    ]
    content = {"loss": found.loss, "num_targets": found.num_targets, "heads": heads}
    return json.dumps(content, indent=1) + "\n"


def history_in(directory: Path) -> Iterator[str]:
    """Yields when each pattern formed in a run with several moments."""
    try:
        history = read_history(directory / FILE)
    except (OSError, MapFormatError):
        return
    if len(history["steps"]) > 1:
        yield from map(str, formed(history))


def add_to_history(found: Examination, directory: Path, step: int) -> str:
    """Adds or replaces a moment in the history of a run. Returns a sentence for the terminal, which
    says so, or why it failed.
    """
    file = directory / FILE
    scores = {head.name: head.scores for head in found.heads}
    try:
        history = read_history(file) if file.exists() else {}
        content = history_as_json(extended(history, scores, step))
        with atomic_write(file) as opened:
            opened.write(content.encode())
    except (OSError, UserError, MapFormatError) as error:
        return f"note: not stored for the Clinic view of the Attention page: {error}"
    return f"stored as step {step:,} of {FILE}, for the Clinic view of the Attention page"
