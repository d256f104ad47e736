"""Prints a card in the terminal."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnkit.checks.card import Card, Line
from attnkit.checks.laws import LAWS, in_words
from attnkit.checks.subjects import PARTS, Subject
from attnkit.registry import ATTENTION, home_of

SIGNS = {
    "holds": ("holds", "green"),
    "does not apply": ("n/a", "dim"),
    "broken": ("BROKEN", "bold red"),
    "crashed": ("CRASHED", "bold red"),
}
VERBS = (("holds", "holds", "hold"), ("does not apply", "does not apply", "do not apply"))
"""Outcome -> its verb for one law and for several."""

WIDEST = max(len(law.words) for law in LAWS)

INDENT = 10
"""Columns before the words about a law."""

console = Console(highlight=False, soft_wrap=True)


class CardPrinter:
    """Prints a card line by line, while the laws are tested.

    Args:
        subject: the subject of the card.
    """

    def __init__(self, subject: Subject) -> None:
        self.topic = ""
        self._remedies: set[str] = set()
        registry = PARTS[subject.part] if subject.part else ATTENTION
        home = home_of(registry.get(subject.name))
        console.print(Text.assemble((str(subject), "bold cyan"), (f"  {home}", "dim")))

    def line(self, line: Line) -> None:
        """Prints the result of one law."""
        if line.topic != self.topic:
            self.topic = line.topic
            console.print(Text(line.topic, style="bold"))
        sign, style = SIGNS[line.outcome]
        words = Text(f"{f'  {sign}':<{INDENT}}", style=style)
        beside = ""
        if line.outcome == "holds":
            beside = f"{_count(line.cases, 'case')}{f'; {line.words}' * bool(line.words)}"
        elif line.outcome == "does not apply":
            beside = line.words
        fits = INDENT + WIDEST + 2 + len(beside) <= _width()
        law = f"{in_words(line.law):<{WIDEST + 2}}" if beside and fits else in_words(line.law)
        words.append(law, style="default not bold")
        console.print(words.append(beside, style="dim") if fits else words)
        if not fits:
            _print(beside, "dim")
        if line.outcome in ("broken", "crashed"):
            _print(line.words, "red")
            for frame in line.trace:
                _print(frame)
            _print(f"{'smallest ' * (line.outcome == 'broken')}case: {line.smallest}")
        if line.remedy:
            _print("remedy: as above" if line.remedy in self._remedies else line.remedy, "dim")
            self._remedies.add(line.remedy)

    def end(self, card: Card, seconds: float) -> None:
        """Prints refused seats and totals."""
        if card.lines and card.lines[-1].outcome == "crashed":
            left = len(LAWS) - len(card.lines)
            others = f"the other {left} laws" if left != 1 else "the other law"
            _print(f"this error ends the card: fix it to test {others}", "bold", 0)
        if card.refused:
            console.print(Text("seats that it refuses", style="bold"))
        for reason in card.refused:
            _print(reason, "dim", 2)
        _print(_totals(card, seconds), indent=0)
        if first := card.fix_first:
            _print(f"Fix `{in_words(first)}` first: others often follow from it", "bold", 0)


def _print(text: str, style: str = "", indent: int = INDENT) -> None:
    """Prints text with an indent, which wrapped lines exceed by two columns."""
    margins = " " * indent, " " * (indent + 2)
    lines = textwrap.wrap(
        text,
        _width(),
        initial_indent=margins[0],
        subsequent_indent=margins[1],
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print(Text("\n".join(lines), style=style))


def _width() -> int:
    """Returns the width of the terminal; in a file or a pipe, lines are not wrapped."""
    return console.width if console.is_terminal else sys.maxsize


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _totals(card: Card, seconds: float) -> str:
    counts = {o: sum(line.outcome == o for line in card.lines) for o in SIGNS}
    is_part = all(line.topic == "models" for line in card.lines)
    where = _count(card.num_seats, "model" if is_part else "seat")
    where += "" if is_part else " (mask x position x role)"
    totals = f"{_count(len(card.lines), 'law')} in {where}: "
    for outcome, verb, verbs in VERBS:
        totals += f"{counts[outcome]} {verb if counts[outcome] == 1 else verbs}, "
    crashed = f", {counts['crashed']} crashed" * bool(counts["crashed"])
    return totals + f"{counts['broken']} broken{crashed}. {seconds:.1f} s"


def show_matrix(cards: Sequence[Card], subjects: Sequence[Subject]) -> None:
    """Prints the table law x subject: cases that hold, `-` where a law does not apply."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("law")
    for subject in subjects:
        longest = max(map(len, str(subject).split()))
        table.add_column(textwrap.fill(str(subject), longest), justify="right")
    for lines in itertools.zip_longest(*(card.lines for card in cards)):
        name = next(line.law for line in lines if line is not None)
        table.add_row(in_words(name), *map(_cell, lines))
    console.print(table)


def _cell(line: Line | None) -> Text:
    if line is None:  # an error ended the card before
        return Text("")
    if line.outcome in ("broken", "crashed"):
        sign, style = SIGNS[line.outcome]
        return Text(sign, style=style)
    return Text(str(line.cases) if line.outcome == "holds" else "-")
