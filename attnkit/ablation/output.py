"""Prints a comparison on the terminal, and writes it to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from attnkit.ablation.comparison import Comparison
from attnkit.ablation.tables import UNLIKE, Grid, as_json, comma_separated, grid, latex, markdown
from attnkit.storage.files import atomic_write

STYLES = {"better": "green", "worse": "red", "within noise": ""}

NATURAL = 10_000
"""Characters per line, more than any table needs: a truncated number is wrong."""


def show_comparison(comparison: Comparison) -> None:
    """Prints the table and its notes; splits quality from cost if the terminal is too narrow."""
    table = grid(comparison)
    count = len(table.columns)
    quality = _table(table, range(table.num_quality))
    cost = _table(table, [0, *range(table.num_quality, count)])
    console = Console(highlight=False, soft_wrap=True, width=NATURAL)
    console.print(Text(table.title, style="bold"))
    print_fitting(_table(table, range(count)), [quality, cost])
    for note in table.notes:
        console.print(
            Text(note, style="yellow" if note.startswith(("*", UNLIKE, "left out")) else "dim")
        )


def print_fitting(whole: Table, parts: Sequence[Table]) -> None:
    """Prints a table. If it is wider than the terminal, prints its parts instead, and a part that
    is still wider as one block per row.
    """
    terminal = Console(highlight=False, soft_wrap=True)
    console = Console(highlight=False, soft_wrap=True, width=NATURAL)

    def fits(table: Table) -> bool:
        # A file or a pipe has no width: its lines are as long as needed.
        return not terminal.is_terminal or console.measure(table).maximum <= terminal.width

    for table in [whole] if fits(whole) else parts:
        for block in [table] if fits(table) else _blocks(table):
            console.print(block)


def _blocks(table: Table) -> Iterator[Table]:
    """Yields each row of a table as its first value, then lines of heading and value."""
    first, *others = table.columns
    for row, title in enumerate(first.cells):
        block = Table.grid(padding=(0, 2))
        for column in others:
            block.add_row(Text(f"  {column.header}", "dim"), list(column.cells)[row])
        yield Table.grid()
        yield _single(title)
        yield block


def _single(cell: RenderableType) -> Table:
    line = Table.grid()
    line.add_row(cell)
    return line


def _table(table: Grid, columns: range | list[int]) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for i in columns:
        drawn.add_column(table.columns[i], justify=_side(table.columns[i]), no_wrap=True)
    for words in table.rows:
        drawn.add_row(
            *(
                Text(words[i], STYLES.get(words[i], "dim") if table.columns[i] == "verdict" else "")
                for i in columns
            )
        )
    return drawn


def _side(column: str) -> Literal["left", "right"]:
    return "left" if column in ("variant", "verdict") else "right"


def _picture(comparison: Comparison) -> bytes:
    from attnkit.ablation.picture import picture  # Pillow and numpy: a table needs neither

    return picture(replace(comparison, others=()))


def _page(comparison: Comparison) -> str:
    from attnkit.ablation.comparison_page import page

    return page(replace(comparison, others=()))


FORMS: dict[str, Callable[[Comparison], str | bytes]] = {
    ".html": _page,
    ".png": _picture,
    ".md": markdown,
    ".csv": comma_separated,
    ".json": as_json,
    ".tex": latex,
}
"""File suffix -> the function that returns the contents."""


def export(comparison: Comparison, outs: Sequence[Path]) -> None:
    """Writes the files atomically; the suffix selects the format.

    Raises:
        DataError: if one cannot be written.
    """
    write_all({out: FORMS[out.suffix](comparison) for out in outs})


def write_all(contents: Mapping[Path, str | bytes]) -> None:
    """Writes files atomically.

    Raises:
        DataError: if one cannot be written.
    """
    for out, content in contents.items():
        with atomic_write(out) as file:
            file.write(content.encode() if isinstance(content, str) else content)
