"""The report of a finished run."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
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
    commands = definition.next_commands(result.directory, result.example)
    if event_files(result.directory):
        folder = shlex.quote(str(_study_of(result.directory)))
        commands = {"view": f"tensorboard --logdir {folder}", **commands}
    console.print(f"\nrun          {result.directory}", markup=False)
    for purpose, command in commands.items():
        console.print(f"{purpose:<12} {command}", markup=False)


def _study_of(directory: Path) -> Path:
    """Returns the folder of a run's study, or of the run if it was moved out of a study."""
    real = Path(os.path.realpath(directory))
    if re.fullmatch(r"seed\d+", real.name) and len(real.parents) > 1:
        real = real.parents[1]
    working_directory = Path(os.path.realpath("."))
    is_below = not directory.is_absolute() and real.is_relative_to(working_directory)
    return real.relative_to(working_directory) if is_below else real
