"""The table: all rows of a protocol, wherever they were made, judged against the base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnkit.ablation.compare import verdicts
from attnkit.ablation.comparison import FOUND_WITH_FEW, Verdict, is_lower_better
from attnkit.ablation.estimates import (
    LEVEL,
    Estimate,
    paired_difference,
    standard_error,
    t_estimate,
    t_quantile,
)
from attnkit.ablation.ranking.cells import FOLDER, Plans
from attnkit.ablation.ranking.protocol import BASE, Protocol, RankError
from attnkit.ablation.ranking.row import Kept, rows_folder
from attnkit.ablation.ranking.subject import Subject
from attnkit.registry import ATTENTION


@dataclass(frozen=True)
class Column:
    """A number of a task.

    Attributes:
        task: of the protocol.
        metric: of its runs.
        heading: in the table.
        is_judged: it has verdicts.
    """

    task: str
    metric: str
    heading: str
    is_judged: bool

    @property
    def lower_is_better(self) -> bool:
        """True for a loss."""
        return is_lower_better(self.metric)


@dataclass(frozen=True)
class Number:
    """A number of a row.

    Attributes:
        mean: over the seeds; None: no run has it.
        difference: to the base, paired by seed.
        p_holm: its p value, corrected for the verdicts of its row.
        verdict: None for the base, and where there is none.
        failed: why runs are missing.
    """

    mean: Estimate | None
    difference: Estimate | None = None
    p_holm: float | None = None
    verdict: Verdict | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Ranking:
    """The table of a protocol.

    Attributes:
        protocol: the protocol.
        columns: its numbers.
        rows: the base, then the others by the first number, the best first.
        numbers: variant -> one per column.
        floors: the noise floor of each column with verdicts: what two sets of seeds of the base
            differ by with 5 % chance; None for the other columns.
        left_out: what is not in the table, and why.
        changed: names of rows whose mechanism has other code now.
    """

    protocol: Protocol
    columns: Sequence[Column]
    rows: Sequence[dict[str, Any]]
    numbers: Mapping[str, Sequence[Number]]
    floors: Sequence[float | None]
    left_out: Sequence[str] = field(default=())
    changed: Sequence[str] = field(default=())

    @property
    def elsewhere(self) -> list[str]:
        """Names of rows whose speed was measured on another machine than the base's."""
        places = {row["name"]: row["costs"].get("speed", {}).get("machine") for row in self.rows}
        base = places[BASE]
        return [name for name, place in places.items() if place is not None and place != base]

    def untuned(self) -> Iterator[tuple[str, str, str, float]]:
        """Yields mechanism, task, end of the grid and learning rate, where the best rate is at an
        end: a better one may be beyond it.
        """
        for row in self.rows:
            for task, found in row["tasks"].items():
                if found.get("edge"):
                    rate = next(iter(found["tuned"].values()))
                    yield row["name"], task, found["edge"], rate

    def notes(self) -> list[str]:
        """Returns what a reader must know, a paragraph each."""
        first = next(iter(next(iter(self.rows))["tasks"].values()))
        seeds = len(next(iter(first["numbers"].values()), ()))
        others, judged = len(self.rows) - 1, sum(column.is_judged for column in self.columns)
        lines = [
            f"Protocol {self.protocol.version}, tier {self.protocol.tier} (docs/protocol.md): "
            f"means over {seeds} seeds. A better or worse number differs from {BASE}'s, by seed, "
            f"at {100 * LEVEL:.0f} % after Holm's correction for the {judged} tasks of its row, "
            "and by more than the noise floor; no word: within noise. By chance alone, at "
            f"most about {LEVEL * others:.1f} of {others} rows have such a word.",
            "Noise floor (two sets of seeds of the base): "
            + ", ".join(
                f"{column.heading} {floor:.3f}"
                for column, floor in zip(self.columns, self.floors, strict=True)
                if floor is not None
            )
            + ".",
        ]
        if seeds in FOUND_WITH_FEW:
            lines.append(
                f"{seeds} seeds are few: one comparison finds a difference of two standard "
                f"deviations in about {FOUND_WITH_FEW[seeds]} % of cases."
            )
        ends: dict[tuple[str, str, float], list[str]] = {}
        for name, task, end, rate in self.untuned():
            ends.setdefault((task, end, rate), []).append(name)
        if ends:
            words = [
                f"{task} ({end}, {rate:g}): {', '.join(names)}"
                for (task, end, rate), names in ends.items()
            ]
            lines.append(
                "† not tuned: the best learning rate is at an end of the grid, a better one may be "
                f"beyond it. {'; '.join(words)}."
            )
        if self.changed:
            lines.append(
                "§ the mechanism has other code now than in its row; ranking it again makes a new "
                f"row: {', '.join(self.changed)}."
            )
        if elsewhere := self.elsewhere:
            lines.append(
                "‡ speed and memory of another machine than the base's, so not comparable; naming "
                f"these and {BASE} in one command measures them here: {', '.join(elsewhere)}."
            )
        if machine := self.rows[0]["costs"].get("speed", {}).get("machine"):
            words = [str(machine.get(key)) for key in ("processor", "device", "torch")]
            lines.append(
                f"Speed and memory of {BASE} are those of {machine.get('cores')} cores of "
                f"{words[0]} (device {words[1]}, torch {words[2]})."
            )
        if without := [row["name"] for row in self.rows if row["position"] == "none"]:
            lines.append(f"Without a position encoding: {', '.join(without)}.")
        if busy := [row["name"] for row in self.rows if is_busy(row)]:
            lines.append(
                "~ measured while other processes used the cores, so not a result; ranking the "
                f"mechanism again measures it again: {', '.join(busy)}."
            )
        lines += [f"Left out: {each}." for each in self.left_out]
        return [*lines, f"Curves and attention maps: tensorboard --logdir {FOLDER}"]


def is_busy(row: Mapping[str, Any]) -> bool:
    """True if other processes disturbed the measurement of a row's speed."""
    return row["costs"].get("speed", {}).get("is_quiet") is False


def columns_of(plans: Plans) -> list[Column]:
    """Returns the numbers of a protocol in order."""
    columns = []
    for task in plans.protocol.parts:
        recipe = plans.recipe(task)
        assert recipe.ablation is not None
        columns.append(Column(task, recipe.ablation.metric, task, True))
        columns += [
            Column(task, f"accuracy_length_{length}", f"{task} at {length}", False)
            for length in recipe.data.options.get("test_lengths", ())
        ]
    return columns


def read_ranking(plans: Plans, kept: Kept, subjects: Sequence[Subject] = ()) -> Ranking:
    """Returns the table of the rows that exist, one of each name.

    Args:
        plans: of the protocol.
        kept: all rows.
        subjects: what must have a row of its present code; of others an older one counts too.

    Raises:
        RankError: if the base has no row.
    """
    protocol, left_out = plans.protocol, list(kept.left_out)
    present = {subject.name: plans.variant(subject) for subject in subjects}
    rows, changed = [], []
    for name in kept.rows:
        now = present.get(name) or _variant_now(kept.rows[name][-1], plans)
        row = kept.row(name, now)
        assert row is not None
        if name in present and row["variant"] != now:
            left_out.append(f"{name}, whose row is of other code: rank it again")
            continue
        rows.append(row)
        if now is not None and row["variant"] != now:
            changed.append(name)
    base = next((row["variant"] for row in rows if row["name"] == BASE), None)
    if base is None:
        reasons = f" (left out: {'; '.join(left_out)})" if left_out else ""
        raise RankError(
            f"{rows_folder(protocol)} has no row of the base {BASE}, and no published table has "
            f"one; name a mechanism, as in `attnkit rank {BASE}`{reasons}"
        )
    columns = columns_of(plans)
    reference = next(row for row in rows if row["variant"] == base)
    numbers = {row["variant"]: _judged(row, reference, columns) for row in rows}
    lower = columns[0].lower_is_better

    def place(row: dict[str, Any]) -> tuple[bool, float, str]:
        mean = numbers[row["variant"]][0].mean
        value = math.inf if mean is None else mean.mean if lower else -mean.mean
        return row["variant"] != base, value, row["name"]

    rows.sort(key=place)
    floors = [_floor(_values(rows[0], column)) if column.is_judged else None for column in columns]
    return Ranking(protocol, columns, rows, numbers, floors, left_out, changed)


def _variant_now(row: Mapping[str, Any], plans: Plans) -> str | None:
    """Returns the folder of a row with the present code; None if that is not known: of a plugin, or
    of a mechanism that is no longer there.
    """
    if row["plugins"] or row["mechanism"] not in ATTENTION.names():
        return None
    return plans.variant(Subject(row["mechanism"], keys=tuple(row["keys"])))


def _judged(
    row: dict[str, Any], reference: dict[str, Any], columns: Sequence[Column]
) -> list[Number]:
    """Returns the numbers of a row. Its verdicts are corrected together, and by themselves: a row
    that somebody adds changes no other.
    """
    numbers = [_number(row, reference, column) for column in columns]
    judged = [i for i, column in enumerate(columns) if column.is_judged]
    known = {
        i: difference
        for i in judged
        if (difference := numbers[i].difference) is not None and difference.p is not None
    }
    differences = [(known[i], columns[i].lower_is_better) for i in known]
    found = verdicts(differences, unknown=len(judged) - len(known))
    for (i, difference), (p, word) in zip(known.items(), found, strict=True):
        floor = _floor(_values(reference, columns[i]))
        verdict = word if floor is None or abs(difference.mean) > floor else "within noise"
        before = numbers[i]
        numbers[i] = Number(before.mean, difference, p, verdict, before.failed)
    return numbers


def _number(row: dict[str, Any], reference: dict[str, Any], column: Column) -> Number:
    values, theirs = _values(row, column), _values(reference, column)
    failed = row["tasks"][column.task].get("failed")
    if not values:
        return Number(None, failed=failed or "no number")
    mean = t_estimate(list(values.values()))
    paired = [values[seed] - theirs[seed] for seed in values if seed in theirs]
    if row is reference or not paired:
        return Number(mean, failed=failed)
    return Number(mean, paired_difference(paired), failed=failed)


def _values(row: Mapping[str, Any], column: Column) -> dict[str, float]:
    found = row["tasks"][column.task]["numbers"].get(column.metric, {})
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def _floor(values: Mapping[str, float]) -> float | None:
    """Returns the largest difference of two means of as many seeds that has a chance of 5 % if
    nothing differs; None for a single seed.
    """
    n = len(values)
    if n < 2:
        return None
    return t_quantile(n - 1) * standard_error(list(values.values())) * math.sqrt(2)
