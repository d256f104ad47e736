"""A comparison, as a person reads it in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnkit.ablation.comparison import Comparison
from attnkit.ablation.tables import Grid, grid

STYLES = {"better": "green", "worse": "red", None: "dim"}

NATURAL = 10_000
"""Letters a line: tables are never squeezed, since a cut number is none."""


def show_comparison(comparison: Comparison) -> None:
    """Prints the table and its notes; where the terminal is too narrow, quality and cost apart."""
    table = grid(comparison)
    count = len(table.columns)
    parts = [_table(table, range(count))]
    terminal = Console(highlight=False, soft_wrap=True)
    console = Console(highlight=False, soft_wrap=True, width=NATURAL)
    # A file or a pipe has no width: it gets lines as long as they need to be.
    if terminal.is_terminal and console.measure(parts[0]).maximum > terminal.width:
        cost = _table(table, [0, *range(table.num_quality, count)])
        parts = [_table(table, range(table.num_quality)), cost]
    console.print(Text(table.title, style="bold"))
    for part in parts:
        console.print(part)
    for note in table.notes:
        console.print(Text(note, style="yellow" if note.startswith(("*", "left out")) else "dim"))


def _table(table: Grid, columns: range | list[int]) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for i in columns:
        drawn.add_column(table.columns[i], justify="left" if i in (0, 4) else "right", no_wrap=True)
    for words, verdict in zip(table.rows, table.verdicts, strict=True):
        style = STYLES.get(verdict, "")
        drawn.add_row(
            *(Text(words[i], style=style if table.columns[i] == "verdict" else "") for i in columns)
        )
    return drawn
