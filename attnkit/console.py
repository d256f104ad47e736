"""What commands print with: one console, and the tables of a run's numbers."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)


def numbers_table(title: str) -> Table:
    """A table of names, numbers and remarks."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column(title)
    table.add_column("", justify="right")
    table.add_column("", style="dim", overflow="fold")
    return table
