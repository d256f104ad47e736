"""Makes the rows of the table, those that are missing, and tells what it does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from attnkit.ablation.launch import Failure
from attnkit.ablation.launchers.base import Launcher
from attnkit.ablation.run_study import build_launcher
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.timing import PREVIEW_SECONDS, TimingError, measure
from attnkit.ranking.cells import FOLDER, Cell, Plans, Subject, train, write_plan
from attnkit.ranking.protocol import BASE, Protocol, RankError
from attnkit.ranking.row import ROWS, finished_row, lacks_speed, make_row, write_row
from attnkit.ranking.speed import speed_of
from attnkit.ranking.table import Ranking, read_ranking
from attnkit.storage import run_directory


@dataclass
class Work:
    """What is to be trained.

    Attributes:
        plans: makes the cells.
        cells: mechanism -> task -> cell, of the rows that are not finished; the base is the first.
        finished: mechanism -> its row, of those that are.
        busy: mechanism -> a cell of it, where a row is finished but for its speed.
        refused: mechanism -> why the protocol cannot take it.
    """

    plans: Plans
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    busy: dict[str, Cell] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def prepare(protocol: Protocol, subjects: Sequence[Subject], *, skip: bool = False) -> Work:
    """Returns what rows need, with everything checked that can be before training.

    Args:
        protocol: the protocol.
        subjects: the mechanisms; the base is added.
        skip: leave out mechanisms that the protocol cannot take, instead of raising.

    Raises:
        RankError: if the protocol cannot take a mechanism, or a row is damaged.
        LawBrokenError: if a plugin breaks a law.
    """
    work = Work(Plans(protocol))
    wanted = {BASE: Subject(BASE), **{subject.mechanism: subject for subject in subjects}}
    for mechanism, subject in wanted.items():
        row = finished_row(protocol, work.plans.variant(subject))
        if row is not None:
            work.finished[mechanism] = row
            if lacks_speed(row) and subject in subjects:
                work.busy[mechanism] = work.plans.cell(next(iter(protocol.parts)), subject)
            continue
        try:
            work.cells[mechanism] = {
                task: work.plans.cell(task, subject) for task in protocol.parts
            }
        except RankError as error:
            if not skip:
                raise
            work.refused[mechanism] = str(error)
    return work


def rank(
    protocol: Protocol, subjects: Sequence[Subject], *, skip: bool = False
) -> tuple[Ranking, list[Failure]]:
    """Trains the missing rows, and returns the table of all rows of the protocol.

    Args:
        protocol: the protocol.
        subjects: the mechanisms that shall have a row, and the base; none: nothing is trained.
        skip: leave out mechanisms that the protocol cannot take, instead of raising.

    Returns:
        The table, and the runs that failed.

    Raises:
        RankError: if the protocol cannot take a mechanism, or no row could be made.
        LawBrokenError: if a plugin breaks a law.
        RunDirectoryError: if another process makes rows in this folder.
        StudyStopped: after SIGINT or SIGTERM.
    """
    if not subjects:
        return read_ranking(Plans(protocol)), []
    work = prepare(protocol, subjects, skip=skip)
    failures: list[Failure] = []
    cells = [*work.busy.values(), *(cell for row in work.cells.values() for cell in row.values())]
    if cells:
        launcher = build_launcher(cells[0].study.plan)
        FOLDER.mkdir(parents=True, exist_ok=True)
        with run_directory.in_use(FOLDER), closing(launcher):
            failures = _make_rows(protocol, work, launcher)
    try:
        kept = [subject for subject in subjects if subject.mechanism not in work.refused]
        table = read_ranking(work.plans, kept, list(work.refused.values()))
    except RankError as error:
        raise RankError("\n\n".join(map(str, (error, *failures)))) from None
    for task in protocol.parts:
        write_plan(work.plans.cell(task, Subject(BASE)), table.rows)
    return table, failures


def _make_rows(protocol: Protocol, work: Work, launcher: Launcher) -> list[Failure]:
    failures: list[Failure] = []
    clock = _Clock(work)
    for mechanism, cell in work.busy.items():
        _finish(protocol, work.finished[mechanism], cell, launcher)
    for number, cells in enumerate(work.cells.values(), 1):
        tasks: dict[str, Any] = {}
        for task, cell in cells.items():
            clock.begin(number, cell)
            tasks[task], lost = train(cell, launcher)
            clock.end(cell)
            failures += lost
        row = make_row(protocol, cells, tasks, work.plans.variant(Subject(BASE)))
        _finish(protocol, row, next(iter(cells.values())), launcher)
    return failures


def _finish(protocol: Protocol, row: dict[str, Any], cell: Cell, launcher: Launcher) -> None:
    """Measures the speed of a row, and writes it."""
    write = Progress("").write
    try:
        row["costs"]["speed"] = speed_of(cell.recipe, launcher, ROWS / ".speed")
    except TimingError as error:
        write(str(error))
    write(f"{row['mechanism']}: {write_row(protocol, row)}")


class _Clock:
    """Tells which cell is trained, and how long the others will take.

    Args:
        work: what is to be trained.
    """

    def __init__(self, work: Work) -> None:
        self._rows = len(work.cells)
        self._missing = {
            (mechanism, task): cell.num_missing()
            for mechanism, cells in work.cells.items()
            for task, cell in cells.items()
        }
        self._seconds: dict[str, list[tuple[float, int]]] = {}
        self._began = 0.0
        self.write = Progress("").write

    def begin(self, number: int, cell: Cell) -> None:
        """Tells which cell begins."""
        missing = self._missing[cell.subject.mechanism, cell.task]
        left = self._left()
        about = "" if left is None else f"; about {timedelta(seconds=round(left))} left in all"
        self.write(
            f"row {number} of {self._rows}: {cell.subject.mechanism}, {cell.task}: "
            f"{missing} run{'s' * (missing != 1)} to train{about}"
        )
        self._began = time.monotonic()

    def end(self, cell: Cell) -> None:
        """Learns from a cell how long its task takes."""
        count = self._missing.pop((cell.subject.mechanism, cell.task))
        if count:
            took = time.monotonic() - self._began
            self._seconds.setdefault(cell.task, []).append((took, count))

    def _left(self) -> float | None:
        measured = {task: _mean(pairs) for task, pairs in self._seconds.items()}
        if not measured:
            return None
        others = sum(measured.values()) / len(measured)
        return sum(measured.get(task, others) * count for (_, task), count in self._missing.items())


def _mean(pairs: Sequence[tuple[float, int]]) -> float:
    return sum(took for took, _ in pairs) / sum(count for _, count in pairs)


def show_work(work: Work, protocol: Protocol) -> None:
    """Prints the cells that would be trained, and how long that takes here. Writes nothing."""
    import tempfile
    from pathlib import Path

    from attnkit.console import console, numbers_table

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
    table = numbers_table("cell")
    total, untimed = 0.0, 0
    for cell in cells:
        timing = timings.get(f"{cell.task}.{cell.variant}")
        missing, steps = cell.num_missing(), cell.recipe.trainer.max_steps
        seconds = None
        if timing is not None:
            seconds = missing * (steps * timing.step + timing.final) / workers
            total += seconds
        untimed += timing is None
        took = "unknown" if seconds is None else str(timedelta(seconds=round(seconds)))
        table.add_row(
            f"{cell.subject.mechanism} {cell.task}", took, f"{missing} runs of {steps:,} steps"
        )
    console.print(table)
    if untimed and untimed < len(cells):
        total *= len(cells) / (len(cells) - untimed)
    console.print(
        f"protocol {protocol.version}, tier {protocol.tier}: {len(work.cells)} rows, about "
        f"{timedelta(seconds=round(total))} ({words}); each row then measures its speed",
        markup=False,
    )
