"""Prints a card in the terminal."""

from __future__ import annotations

import itertools
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
WIDEST = max(len(law.words) for law in LAWS)

console = Console(highlight=False, soft_wrap=True)


class CardPrinter:
    """Prints a card line by line, while the laws are tested.

    Args:
        subject: the subject of the card.
    """

    def __init__(self, subject: Subject) -> None:
        self.topic = ""
        registry = PARTS[subject.part] if subject.part else ATTENTION
        home = home_of(registry.get(subject.name))
        console.print(Text.assemble((str(subject), "bold cyan"), (f"  {home}", "dim")))

    def line(self, line: Line) -> None:
        """Prints the result of one law."""
        if line.topic != self.topic:
            self.topic = line.topic
            console.print(Text(line.topic, style="bold"))
        sign, style = SIGNS[line.outcome]
        words = Text(f"  {sign:<8}", style=style)
        words.append(f"{in_words(line.law):<{WIDEST + 2}}", style="default not bold")
        if line.outcome == "holds":
            words.append(f"{line.cases} case{'s' * (line.cases != 1)}", style="dim")
            words.append(f"; {line.words}" * bool(line.words), style="dim")
        elif line.outcome == "does not apply":
            words.append(line.words, style="dim")
        console.print(words)
        if line.outcome in ("broken", "crashed"):
            console.print(Text(f"{'':10}{line.words}", style="red"))
            for frame in line.trace:
                console.print(Text(f"{'':10}{frame}"))
            which = "smallest case" if line.outcome == "broken" else "case"
            console.print(Text(f"{'':10}{which}: {line.smallest}"))
        if line.remedy:
            console.print(Text(f"{'':10}{line.remedy}", style="dim"))

    def end(self, card: Card, seconds: float) -> None:
        """Prints refused seats and totals."""
        if card.lines and card.lines[-1].outcome == "crashed":
            left = len(LAWS) - len(card.lines)
            message = f"this error ends the card: fix it to test the other {left} laws"
            console.print(Text(message, style="bold"))
        if card.refused:
            console.print(Text("seats that it refuses", style="bold"))
        for reason in card.refused:
            console.print(Text(f"  {reason}", style="dim"))
        console.print(Text(_totals(card, seconds)))
        if first := card.fix_first:
            message = f"Fix `{in_words(first)}` first: others often follow from it"
            console.print(Text(message, style="bold"))


def _totals(card: Card, seconds: float) -> str:
    counts = {o: sum(line.outcome == o for line in card.lines) for o in SIGNS}
    is_part = all(line.topic == "models" for line in card.lines)
    where = "models" if is_part else "seats (mask x position x role)"
    totals = f"{len(card.lines)} laws in {card.num_seats} {where}: "
    totals += f"{counts['holds']} hold, {counts['does not apply']} do not apply, "
    crashed = f", {counts['crashed']} crashed" * bool(counts["crashed"])
    return totals + f"{counts['broken']} broken{crashed}. {seconds:.1f} s"


def show_matrix(cards: Sequence[Card]) -> None:
    """Prints the table law x mechanism: cases that hold, `-` where a law does not apply."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("law")
    for card in cards:
        table.add_column(card.name, justify="right")
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
