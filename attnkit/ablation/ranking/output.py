"""Prints the table of a protocol, and writes it: Markdown, a page, CSV, JSON."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnkit.ablation.output import NATURAL, STYLES, write_all
from attnkit.ablation.ranking.protocol import Protocol, RankError
from attnkit.ablation.ranking.row import FORMAT, LENGTHS, read_file
from attnkit.ablation.ranking.table import Column, Number, Ranking, is_busy
from attnkit.ablation.tables import NOTHING, csv_of, estimate, short, visible
from attnkit.pages.offline import offline_page
from attnkit.registry import ATTENTION

WIDTH = 80
"""Characters of a line where no terminal tells its width."""

DIGITS = 3

RECALL = "recall"
"""The number that the page draws against the bytes of the cache."""


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown.

    Attributes:
        text: the words.
        value: what sorts it; None comes last.
        verdict: for its colour.
        hint: more about it.
    """

    text: str
    value: float | str | None
    verdict: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Sheet:
    """The table in words.

    Attributes:
        headings: of the columns; the first is the mechanism.
        rows: one cell per column.
    """

    headings: list[str]
    rows: list[list[Cell]]


def sheet(ranking: Ranking, *, intervals: bool) -> Sheet:
    """Returns the table in words.

    Args:
        ranking: the table.
        intervals: write the 95 % interval of each mean.
    """
    costs = ["parameters", *(f"cache at {_thousands(n)}" for n in LENGTHS)]
    costs += ["tokens/s", "training memory", "ms/token decoded"]
    headings = ["mechanism", *(column.heading for column in ranking.columns), *costs]
    ends = {(name, task): end for name, task, end, _ in ranking.untuned()}
    rows = []
    for row in ranking.rows:
        name = row["name"]
        mark = " §" if name in ranking.changed else ""
        words = [Cell(visible(name) + mark, name, hint=_about(row))]
        for column, number in zip(ranking.columns, ranking.numbers[row["variant"]], strict=True):
            words.append(_cell(number, column, (name, column.task) in ends, intervals=intervals))
        rows.append([*words, *_costs(row, "‡" if name in ranking.elsewhere else "")])
    return Sheet(headings, rows)


def _thousands(length: int) -> str:
    return f"{length // 1024}k"


def _about(row: Mapping[str, Any]) -> str:
    plugin = "".join(f"; plugin {each['name']} {each['sha256'][:8]}" for each in row["plugins"])
    words = f"{row['formula']}; {row['paper']}{plugin}; position {row['position']}; {_day(row)}"
    return visible(words.strip("; "))


def _day(row: Mapping[str, Any]) -> str:
    return row["date"].partition("T")[0]


def _cell(number: Number, column: Column, is_untuned: bool, *, intervals: bool) -> Cell:
    if number.mean is None:
        return Cell(number.failed or NOTHING, None)
    mark = "†" if is_untuned and column.is_judged else ""
    word = f" {number.verdict}" if number.verdict in ("better", "worse") else ""
    mean = estimate(number.mean, DIGITS) if intervals else f"{number.mean.mean:.{DIGITS}f}"
    lost = f" ({number.failed})" if number.failed else ""
    hint = f"{estimate(number.mean, DIGITS)}, {number.mean.n} seeds"
    if number.difference is not None:
        hint += f"; difference {estimate(number.difference, DIGITS, signed=True)}"
    if number.p_holm is not None:
        hint += f", p {number.p_holm:.2g} after Holm: {number.verdict}"
    return Cell(f"{mean}{word}{mark}{lost}", number.mean.mean, number.verdict, hint)


def _costs(row: Mapping[str, Any], place: str) -> Iterator[Cell]:
    """Yields the costs of a row; `place` marks those that another machine has measured."""
    costs = row["costs"]
    yield Cell(f"{costs['parameters']:,}", costs["parameters"])
    for length in LENGTHS:
        size = costs["cache_bytes"][str(length)]
        yield Cell(NOTHING if size is None else f"{short(size, 3)}B", size)
    speed, mark = costs.get("speed", {}), "~" if is_busy(row) else ""
    for key, unit in (("tokens_per_second", ""), ("training_bytes", "B"), ("ms_per_token", "")):
        value = speed.get(key)
        words = NOTHING if value is None else f"{short(value, 3)}{unit}"
        # Memory does not depend on what other processes do.
        marks = place + (mark if not unit else "")
        yield Cell(words + (marks if value is not None else ""), value)


def show_ranking(ranking: Ranking) -> None:
    """Prints the table, in blocks that are as wide as the terminal, and its notes."""
    terminal = Console(highlight=False)
    width = terminal.width if terminal.is_terminal else WIDTH
    console = Console(highlight=False, soft_wrap=True, width=NATURAL)
    whole = sheet(ranking, intervals=False)
    for columns in _blocks(whole, width):
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
        for i in columns:
            table.add_column(whole.headings[i], justify="left" if i == 0 else "right", no_wrap=True)
        for row in whole.rows:
            table.add_row(
                *(Text(row[i].text, STYLES.get(row[i].verdict or "", "")) for i in columns)
            )
        console.print(table)
    for note in ranking.notes():
        Console(highlight=False, width=width).print(Text(note, style="dim"))


def _blocks(whole: Sheet, width: int) -> Iterator[list[int]]:
    """Yields the columns of each block: the first, and as many others as fit."""
    sizes = [
        max(len(heading), *(len(row[i].text) for row in whole.rows)) + len(" | ")
        for i, heading in enumerate(whole.headings)
    ]
    block: list[int] = []
    for i in range(1, len(sizes)):
        if block and sizes[0] + sum(sizes[j] for j in block) + sizes[i] > width + 1:
            yield [0, *block]
            block = []
        block.append(i)
    yield [0, *block]


def markdown(ranking: Ranking) -> str:
    """Returns the table with intervals, how it was made, and the rows' machines."""
    whole = sheet(ranking, intervals=True)
    lines = [
        "# The zoo",
        "",
        "Written by `attnkit rank`; [protocol.md](protocol.md) describes what each number is.",
        "",
        f"| {' | '.join(map(_escaped, whole.headings))} |",
        f"|---|{'---:|' * (len(whole.headings) - 1)}",
        *(f"| {' | '.join(_escaped(cell.text) for cell in row)} |" for row in whole.rows),
        "",
        *(f"- {_escaped(note)}" for note in ranking.notes()),
        "",
        f"Command: `{command(ranking)}`. Made on:",
        "",
        *(f"- {_escaped(place)}: {', '.join(names)}" for place, names in _places(ranking)),
        "",
        *_without_row(ranking),
    ]
    return "\n".join(lines)


def _without_row(ranking: Ranking) -> list[str]:
    """Returns a paragraph about the mechanisms of the kit that have no row."""
    present = {row["mechanism"] for row in ranking.rows}
    missing = [
        name
        for name in ATTENTION.names()
        if name not in present and ATTENTION.get(name).__module__.startswith("attnkit.")
    ]
    return [f"Without a row so far: {', '.join(missing)}.", ""] if missing else []


def _escaped(text: str) -> str:
    for letter in "\\`*_[]|#<>":
        text = text.replace(letter, f"\\{letter}")
    return text.replace("~", "\\~")


def command(ranking: Ranking) -> str:
    """Returns the command that makes the rows of the table."""
    words = dict.fromkeys(word for row in ranking.rows for word in _words(row))
    return f"attnkit rank {' '.join(map(shlex.quote, words))} --tier {ranking.protocol.tier}"


def _words(row: Mapping[str, Any]) -> list[str]:
    """Returns the plugins of a row and the row, as the command names them."""
    plugins = [plugin["name"] for plugin in row["plugins"]]
    of_kit = row["mechanism"] in ATTENTION.names() and ATTENTION.get(
        row["mechanism"]
    ).__module__.startswith("attnkit.")
    what = row["mechanism"] if of_kit or not plugins else plugins.pop(0)
    return [*plugins, " ".join((what, *row["keys"]))]


def _places(ranking: Ranking) -> Iterator[tuple[str, list[str]]]:
    """Yields machine, packages, commit and date, with the mechanisms whose rows were made there."""
    found: dict[str, list[str]] = {}
    for row in ranking.rows:
        machine = row["machine"]
        packages = machine.get("packages", {})
        words = (
            f"{machine.get('platform')}, {machine.get('cpu_cores')} cores, "
            f"{machine.get('device')}, {machine.get('threads')} thread(s) a run, torch "
            f"{packages.get('torch')}, attnkit {packages.get('attnkit')} at {row['commit']}, "
            f"{_day(row)}"
        )
        found.setdefault(words, []).append(row["name"])
    return iter(found.items())


def page(ranking: Ranking) -> str:
    """Returns an offline page whose columns can be sorted."""
    whole = sheet(ranking, intervals=False)
    data = {
        "title": f"Protocol {ranking.protocol.version}, tier {ranking.protocol.tier}",
        "headings": whole.headings,
        "rows": [
            [{"text": c.text, "value": c.value, "verdict": c.verdict, "hint": c.hint} for c in row]
            for row in whole.rows
        ],
        "details": {row["name"]: _details(row) for row in ranking.rows},
        "recall": _recall(ranking),
        "notes": ranking.notes(),
        "made": [f"{place}: {', '.join(names)}" for place, names in _places(ranking)],
        "command": command(ranking),
    }
    return offline_page(
        "attnkit.ablation.ranking",
        "ranking.js",
        title="attnkit rank",
        data=data,
        body=f"<noscript><pre>{html.escape(markdown(ranking))}</pre></noscript>",
    )


def _details(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page shows of a chosen row: curves by task, and how to open its maps."""
    tasks = row["tasks"]
    return {
        "about": _about(row),
        "curves": {task: found["curve"] for task, found in tasks.items() if found.get("curve")},
        "maps": [
            f"attnkit attention {shlex.quote(found['runs'][0])}"
            for found in tasks.values()
            if found.get("runs") and Path(found["runs"][0]).is_dir()
        ],
        "again": _words(row),
    }


def _recall(ranking: Ranking) -> dict[str, Any] | None:
    """Returns the points of accuracy over the bytes of the cache; None without such a task."""
    place = next((i for i, c in enumerate(ranking.columns) if c.heading == RECALL), None)
    if place is None:
        return None
    length = LENGTHS[0]
    points = [
        {
            "name": row["name"],
            "bytes": row["costs"]["cache_bytes"][str(length)],
            "accuracy": number.mean.mean,
            "low": number.mean.low if number.mean.half_width is not None else None,
            "high": number.mean.high if number.mean.half_width is not None else None,
        }
        for row in ranking.rows
        if (number := ranking.numbers[row["variant"]][place]).mean is not None
        and row["costs"]["cache_bytes"][str(length)] is not None
    ]
    return {"of": f"bytes of the cache at {_thousands(length)} tokens", "points": points}


def comma_separated(ranking: Ranking) -> str:
    """Returns all numbers unrounded, one line per mechanism and number."""
    return csv_of(_records(ranking))


def _records(ranking: Ranking) -> Iterator[dict[str, Any]]:
    ends = {(name, task): end for name, task, end, _ in ranking.untuned()}
    for row in ranking.rows:
        for column, number in zip(ranking.columns, ranking.numbers[row["variant"]], strict=True):
            found = row["tasks"][column.task]
            mean, difference = number.mean, number.difference
            yield {
                "name": row["name"],
                "task": column.task,
                "metric": column.metric,
                "mean": mean.mean if mean else None,
                "low": mean.low if mean else None,
                "high": mean.high if mean else None,
                "seeds": found["numbers"].get(column.metric, {}),
                "difference": difference.mean if difference else None,
                "p_holm": number.p_holm,
                "verdict": number.verdict,
                "tuned": found["tuned"],
                "at_the_edge": ends.get((row["name"], column.task)),
                "failed": number.failed,
                "parameters": found.get("parameters"),
                "steps": found.get("steps"),
                "tokens": found.get("tokens"),
            }


def as_json(ranking: Ranking) -> str:
    """Returns the rows and the verdicts, for programs, and for the next table."""
    content = {
        "format": FORMAT,
        "protocol": ranking.protocol.version,
        "tier": ranking.protocol.tier,
        "rows": list(ranking.rows),
        "numbers": [
            {key: value for key, value in record.items() if key != "seeds"}
            for record in _records(ranking)
        ],
        "notes": ranking.notes(),
    }
    return "{\n" + ",\n".join(_entry(*item) for item in content.items()) + "\n}\n"


def _entry(key: str, value: Any) -> str:
    """Returns an entry of a JSON file, with an item of a list on each line: a row that is added is
    a line that is added.
    """
    if not isinstance(value, list):
        return f' "{key}": {json.dumps(value)}'
    items = ",\n".join(f"  {json.dumps(each, ensure_ascii=False)}" for each in value)
    return f' "{key}": [\n{items}\n ]'


FORMS: dict[str, Callable[[Ranking], str]] = {
    ".md": markdown,
    ".html": page,
    ".csv": comma_separated,
    ".json": as_json,
}
"""File suffix -> the function that returns the contents."""


def with_rows(outs: Iterable[Path]) -> list[Path]:
    """Returns all files that `export` writes: tables, and their rows beside them, as `.json`."""
    outs = list(outs)
    rows = (out.with_suffix(".json") for out in outs if out.suffix in FORMS)
    return list(dict.fromkeys([*outs, *rows]))


def rows_beside(outs: Iterable[Path], protocol: Protocol) -> list[Path]:
    """Returns the files of rows of this protocol beside tables: `zoo.json` of `zoo.md`.

    Raises:
        RankError: if one is damaged, or of another tier, or of a newer version.
    """
    tables = []
    for table in with_rows(outs):
        if table.suffix != ".json" or not table.is_file():
            continue
        found = read_file(table, ("rows",))
        if found["tier"] != protocol.tier or found["protocol"] > protocol.version:
            raise RankError(
                f"--out {table} has rows of protocol {found['protocol']}, tier {found['tier']}; "
                f"these are of protocol {protocol.version}, tier {protocol.tier}, and rows of two "
                "are never mixed; choose another name"
            )
        if found["protocol"] == protocol.version:
            tables.append(table)
    return tables


def export(ranking: Ranking, outs: Sequence[Path]) -> list[Path]:
    """Writes the files of `with_rows` atomically; the suffix selects the format.

    Returns:
        The files.

    Raises:
        DataError: if one cannot be written.
    """
    files = with_rows(outs)
    write_all({out: FORMS[out.suffix](ranking) for out in files})
    return files
