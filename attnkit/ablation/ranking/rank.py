"""Makes the rows of the table, those that are missing, and tells what it does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from attnkit.ablation.launch import Failure
from attnkit.ablation.launchers.base import Launcher
from attnkit.ablation.ranking.cells import FOLDER, Cell, Plans, write_plan
from attnkit.ablation.ranking.protocol import BASE, Protocol, RankError
from attnkit.ablation.ranking.row import (
    ROWS,
    counted_costs,
    lacks_speed,
    make_row,
    read_kept,
    write_row,
)
from attnkit.ablation.ranking.speed import speed_of, this_machine
from attnkit.ablation.ranking.subject import Subject
from attnkit.ablation.ranking.table import Ranking, read_ranking
from attnkit.ablation.ranking.training import train
from attnkit.ablation.run_study import build_launcher
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.tables import visible
from attnkit.ablation.timing import PREVIEW_SECONDS, TimingError, measure
from attnkit.console import console, numbers_table, progress_bar
from attnkit.storage import run_directory


@dataclass
class Work:
    """What is to be trained.

    Attributes:
        plans: makes the cells.
        cells: name -> task -> cell, of the rows that are not finished; the base is the first.
        costs: name -> what `counted_costs` returned, of the same rows.
        finished: name -> its row, of those that are.
        busy: name -> a cell of it, where a row is finished but for its speed.
        refused: name -> why the protocol cannot take it.
    """

    plans: Plans
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    busy: dict[str, Cell] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def prepare(
    protocol: Protocol,
    subjects: Sequence[Subject],
    tables: Iterable[Path] = (),
    *,
    skip: bool = False,
) -> Work:
    """Returns what rows need, with everything checked that can be before training.

    Args:
        protocol: the protocol.
        subjects: what shall have a row of its present code; the base is added, of any code.
        tables: published tables whose rows count, beside those of the kit.
        skip: leave out mechanisms that the protocol cannot take, instead of raising.

    Raises:
        RankError: if the protocol cannot take a mechanism, or a row is damaged.
        LawBrokenError: if a plugin breaks a law.
    """
    work, kept, machine = Work(Plans(protocol)), read_kept(protocol, tables), this_machine()
    wanted = {BASE: Subject(BASE), **{subject.name: subject for subject in subjects}}
    for name, subject in progress_bar([*wanted.items()], "checking rows"):
        variant, is_named = work.plans.variant(subject), subject in subjects
        row = kept.row(name, variant)
        if row is not None and (row["variant"] == variant or not is_named):
            work.finished[name] = row
            if is_named and lacks_speed(row, machine):
                work.busy[name] = work.plans.cell(next(iter(protocol.parts)), subject)
            continue
        try:
            cells = {task: work.plans.cell(task, subject) for task in protocol.parts}
        except RankError as error:
            if not skip:
                raise
            work.refused[name] = str(error)
            continue
        work.costs[name] = counted_costs(cells)  # now: what fails here must not do so after hours
        work.cells[name] = cells
    return work


def rank(
    protocol: Protocol,
    subjects: Sequence[Subject],
    tables: Iterable[Path] = (),
    *,
    skip: bool = False,
) -> tuple[Ranking, list[Failure]]:
    """Trains the missing rows, and returns the table of all rows of the protocol.

    Args:
        protocol: the protocol.
        subjects: what shall have a row, beside the base; none: nothing is trained.
        tables: published tables whose rows count, beside those of the kit.
        skip: leave out mechanisms that the protocol cannot take, instead of raising.

    Returns:
        The table, and the runs that failed.

    Raises:
        RankError: if the protocol cannot take a mechanism, or no row could be made.
        LawBrokenError: if a plugin breaks a law.
        RunDirectoryError: if another process makes rows in this folder.
        StudyStopped: after SIGINT or SIGTERM.
    """
    tables = list(tables)
    if not subjects:
        return read_ranking(Plans(protocol), read_kept(protocol, tables)), []
    work = prepare(protocol, subjects, tables, skip=skip)
    failures: list[Failure] = []
    cells = [*work.busy.values(), *(cell for row in work.cells.values() for cell in row.values())]
    if cells:
        launcher = build_launcher(cells[0].study.plan)
        FOLDER.mkdir(parents=True, exist_ok=True)
        with run_directory.in_use(FOLDER), closing(launcher):
            failures = _make_rows(protocol, work, launcher)
    present = [subject for subject in subjects if subject.name not in work.refused]
    kept = read_kept(protocol, tables)
    kept.left_out += work.refused.values()
    try:
        table = read_ranking(work.plans, kept, present)
    except RankError as error:
        raise RankError("\n\n".join(map(str, (error, *failures)))) from None
    if cells:
        for task in protocol.parts:
            write_plan(work.plans.cell(task, Subject(BASE)), table.rows)
    return table, failures


def _make_rows(protocol: Protocol, work: Work, launcher: Launcher) -> list[Failure]:
    failures: list[Failure] = []
    clock = _Clock(work)
    for name, cell in work.busy.items():
        _finish(protocol, work.finished[name], cell, launcher)
    for name, cells in work.cells.items():
        clock.begin(cells)
        tasks, lost = train(cells, launcher)
        clock.end()
        failures += lost
        row = make_row(protocol, cells, tasks, work.costs[name])
        _finish(protocol, row, next(iter(cells.values())), launcher)
    return failures


def _finish(protocol: Protocol, row: dict[str, Any], cell: Cell, launcher: Launcher) -> None:
    """Measures the speed of a row, and writes it."""
    write = Progress("").write
    try:
        row["costs"]["speed"] = speed_of(cell.recipe, launcher, ROWS / ".speed")
    except TimingError as error:
        write(str(error))
    write(f"{row['name']}: {write_row(protocol, row)}")


class _Clock:
    """Tells which row is trained, and how long the others will take.

    Args:
        work: what is to be trained.
    """

    def __init__(self, work: Work) -> None:
        self._missing = [
            sum(cell.num_missing() for cell in cells.values()) for cells in work.cells.values()
        ]
        self._number = self._runs = 0
        self._seconds = self._began = 0.0
        self.write = Progress("").write

    def begin(self, cells: Mapping[str, Cell]) -> None:
        """Tells which row begins."""
        name = next(iter(cells.values())).subject.name
        missing, left = self._missing[self._number], sum(self._missing[self._number :])
        self._number += 1
        seconds = round(left * self._seconds / self._runs) if self._runs else None
        about = "" if seconds is None else f"; about {timedelta(seconds=seconds)} left in all"
        runs = f"{missing} run{'s' * (missing != 1)}"
        self.write(f"row {self._number} of {len(self._missing)}: {name}: {runs} to train{about}")
        self._began = time.monotonic()

    def end(self) -> None:
        """Learns from a row how long a run takes."""
        self._runs += self._missing[self._number - 1]
        self._seconds += time.monotonic() - self._began


def show_work(work: Work, protocol: Protocol) -> None:
    """Prints the rows that would be trained, and how long that takes here. Writes nothing."""
    import tempfile

    if work.finished:
        console.print(f"finished: {', '.join(work.finished)}", markup=False)
    for reason in work.refused.values():
        console.print(f"left out: {reason}", markup=False)
    if not work.cells:
        console.print("nothing is to be trained")
        return
    cells = [cell for row in work.cells.values() for cell in row.values()]
    launcher = build_launcher(cells[0].study.plan)
    recipes = {f"{cell.task}.{cell.variant}": cell.recipe for cell in cells}
    with tempfile.TemporaryDirectory() as place, closing(launcher):
        timings = measure(recipes, launcher, Path(place), PREVIEW_SECONDS)
        workers = launcher.workers or 1
        words = launcher.describe()
    table = numbers_table("row")
    total, untimed = 0.0, 0
    for name, row in work.cells.items():
        seconds: float | None = 0.0
        for cell in row.values():
            timing = timings.get(f"{cell.task}.{cell.variant}")
            if timing is None:
                seconds, untimed = None, untimed + 1
                continue
            a_run = cell.recipe.trainer.max_steps * timing.step + timing.final
            takes = cell.num_missing() * a_run / workers
            total += takes
            seconds = None if seconds is None else seconds + takes
        took = "unknown" if seconds is None else str(timedelta(seconds=round(seconds)))
        missing = sum(cell.num_missing() for cell in row.values())
        table.add_row(visible(name), took, f"{missing} run{'s' * (missing != 1)}")
    console.print(table)
    if untimed and untimed < len(cells):
        total *= len(cells) / (len(cells) - untimed)
    rows = f"{len(work.cells)} row{'s' * (len(work.cells) != 1)}"
    console.print(
        f"protocol {protocol.version}, tier {protocol.tier}: {rows}, about "
        f"{timedelta(seconds=round(total))} ({words}); each row then measures its speed",
        markup=False,
    )
