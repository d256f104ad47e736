"""The report of a finished run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.text import Text

from attnkit.console import console, numbers_table
from attnkit.tensorboard.event_files import event_files

if TYPE_CHECKING:
    from attnkit.runs.experiment import Result


def show_result(result: Result) -> None:
    """Prints the metrics of a run, a sample, its directory, and commands to look at it."""
    record, definition = result.record, result.definition
    table = numbers_table(definition.title(record))
    for row in definition.rows(record):
        if row.begins_section:
            table.add_section()
        table.add_row(row.label, row.number, style="dim" if row.is_dim else "")
    table.add_section()
    table.add_row("parameters", f"{record['parameters']:,}")
    table.add_row("steps", f"{record['steps']:,}")
    table.add_row("training time", f"{record['seconds']:.0f} s")
    if compiling := record.get("compile_seconds"):
        table.add_row("  of it compiling", f"{compiling:.0f} s")
    table.add_row("tokens per second", f"{record['tokens_per_second']:,.0f}")
    table.add_row("precision, device", f"{record['precision']}, {record['device']}")
    console.print(table)
    for remark in definition.remarks(record):
        console.print(remark)
    if sample := result.sample.strip("\n"):
        console.print("[bold]sample[/]")
        console.print(Text(sample))
    # A run may have been moved, or its path may have fewer than three parts.
    above = result.directory.absolute().parents
    root = above[min(1, len(above) - 1)] if above else result.directory
    shown = result.directory.parents[1] if len(result.directory.parts) > 2 else root
    commands = definition.next_commands(result.directory, result.example)
    if event_files(result.directory):
        commands = {"view": f"tensorboard --logdir {shlex.quote(str(shown))}", **commands}
    console.print(f"\nrun          {result.directory}", markup=False)
    for purpose, command in commands.items():
        console.print(f"{purpose:<12} {command}", markup=False)
