"""Formats a comparison as a table: plain text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attnkit.ablation.comparison import NOT_DECIDED, Comparison, Row
from attnkit.ablation.estimates import Estimate

NOTHING = "-"

UNLIKE = "†"
"""Marks a speed that is not comparable with the base's."""


@dataclass(frozen=True)
class Grid:
    """A table of strings.

    Attributes:
        title: the studies and the metric.
        columns: headings; the first `num_quality` are about quality, the others about cost.
        rows: one string per column; those of stopped variants are the last.
        verdicts: one per row, which selects its colour.
        num_quality: number of columns about quality.
        notes: lines below the table.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    verdicts: list[str | None]
    num_quality: int
    notes: list[str]


def grid(comparison: Comparison) -> Grid:
    """Returns the table as strings, each name made safe to print."""
    better = "lower" if comparison.lower_is_better else "higher"
    metric = visible(comparison.metric)
    quality = ["variant", metric, "seeds", "difference to base", "verdict"]
    costs = ["parameters", "FLOPs/token", "tokens/s", "peak memory", "cache B/token"]
    digits = decimals(comparison)
    rows = [_words(row, digits, comparison.metric) for row in comparison.rows]
    count = len(quality)
    stopped = [
        [visible(each.variant), NOTHING, str(len(each.runs)), NOTHING, NOT_DECIDED]
        for each in comparison.stopped
    ]
    for other in comparison.others:
        quality += [visible(other.metric), "difference", "verdict"]
        found = {row.variant: row for row in other.rows}
        for row, words in zip(comparison.rows, rows, strict=True):
            words[count:count] = _by_another_metric(found.get(row.variant), other)
        stopped = [[*words, NOTHING, NOTHING, NOT_DECIDED] for words in stopped]
        count = len(quality)
    return Grid(
        title=f"{visible(comparison.title)}: {metric}, {better} is better",
        columns=[*quality, *costs],
        rows=[*rows, *([*words, *[NOTHING] * len(costs)] for words in stopped)],
        verdicts=[*(row.verdict for row in comparison.rows), *[None] * len(stopped)],
        num_quality=len(quality),
        notes=notes(comparison),
    )


def _words(row: Row, digits: int, metric: str) -> list[str]:
    cache = row.cache_bytes_per_token
    mark = UNLIKE if row.speed_remarks else ""
    return [
        visible(row.variant) + ("*" if row.remarks else ""),
        estimate(row.value, digits) + mark * _is_time(metric),
        str(row.value.n),
        estimate(row.difference, digits, signed=True) if row.difference else NOTHING,
        verdict(row),
        short(row.mean_of("parameters")),
        short(row.mean_of("training_flops_per_token")),
        short(row.mean_of("tokens_per_second"), 3) + mark,
        NOTHING if (peak := row.mean_of("peak_memory_bytes")) is None else f"{short(peak, 3)}B",
        NOTHING if cache is None else f"{cache:,.0f}",
    ]


def _is_time(metric: str) -> bool:
    """True for a metric that depends on the machine's speed."""
    return metric.startswith("seconds_to:")


def _by_another_metric(row: Row | None, by: Comparison) -> list[str]:
    if row is None:
        return [NOTHING] * 3
    digits, mark = decimals(by), UNLIKE * bool(row.speed_remarks and _is_time(by.metric))
    difference = estimate(row.difference, digits, signed=True) if row.difference else NOTHING
    return [estimate(row.value, digits) + mark, difference, verdict(row)]


def verdict(row: Row) -> str:
    """Returns the verdict, or the reason why there is none."""
    return "base" if row.is_base else row.verdict or row.no_verdict or NOTHING


def notes(comparison: Comparison) -> list[str]:
    """Returns the lines below the table: remarks, explanations, and runs that were left out."""
    variants: dict[str, list[str]] = {}  # remark -> the variants that it applies to
    for row in comparison.rows:
        for remark in row.remarks:
            variants.setdefault(remark, []).append(row.variant)
    speeds: dict[str, list[str]] = {}
    for row in comparison.rows:
        for remark in row.speed_remarks:
            speeds.setdefault(remark, []).append(row.variant)
    remarks = [
        f"* {visible(', '.join(names))}: {visible(text)}" for text, names in variants.items()
    ]
    remarks += [
        f"{UNLIKE} {visible(', '.join(names))}: speed not comparable: {visible(text)}"
        for text, names in speeds.items()
    ]
    left_out = [
        f"left out: {visible(str(run.directory))}: {visible(run.reason)}"
        for run in comparison.left_out
    ]
    for other in comparison.others:
        left_out += [
            f"left out of {visible(other.metric)}: {visible(str(run.directory))}: "
            f"{visible(run.reason)}"
            for run in other.left_out
            if run not in comparison.left_out
        ]
    return [*remarks, *comparison.how, *left_out]


def visible(text: str) -> str:
    """Escapes control and direction characters of a name."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        text,
    )


def decimals(comparison: Comparison) -> int:
    """Returns the number of decimals: four for a loss, fewer for large numbers."""
    largest = max(abs(row.value.mean) for row in comparison.rows)
    return 4 if largest < 10 else 3 if largest < 100 else 2


def estimate(value: Estimate, digits: int, signed: bool = False) -> str:
    """Formats `1.2345 ± 0.0123`."""
    mean = f"{value.mean:{'+' if signed else ''}.{digits}f}"
    return mean if value.half_width is None else f"{mean} ± {value.half_width:.{digits}f}"


def short(number: float | None, digits: int = 4) -> str:
    """Formats a number with few digits: `202.1k`, `1.234M`."""
    if number is None:
        return NOTHING
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            whole = len(str(int(abs(number) / size)))
            return f"{number / size:.{max(0, digits - whole)}f}{unit}"
    return f"{number:.{digits}g}"


def markdown(comparison: Comparison) -> str:
    """Returns a table for a README."""
    table = grid(comparison)

    def line(words: list[str]) -> str:
        return f"| {' | '.join(map(_markdown_word, words))} |"

    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [line(table.columns), f"|{'|'.join(rule)}|", *map(line, table.rows), ""]
    return "\n".join([*lines, *(f"- {_markdown_word(note)}" for note in table.notes), ""])


def _markdown_word(text: str) -> str:
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    "†": r"$\dagger$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def latex(comparison: Comparison) -> str:
    """Returns a booktabs table for a paper, with the notes as a small paragraph below."""
    table = grid(comparison)

    def line(words: list[str]) -> str:
        return f"{' & '.join(map(_tex_word, words))} \\\\"

    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            "\\toprule",
            line(table.columns),
            "\\midrule",
            *map(line, table.rows),
            "\\bottomrule",
            "\\end{tabular}",
            "",
            "\\par\\medskip\\footnotesize",
            *(f"{_tex_word(note)}\\\\" for note in table.notes),
            "",
        ]
    )


def _tex_word(text: str) -> str:
    words = "".join(_TEX.get(letter, letter) for letter in text)
    return re.sub(r"^([+-])(?=\d)", r"$\1$", words)  # a minus sign, not a hyphen


def comma_separated(comparison: Comparison) -> str:
    """Returns all numbers unrounded, one line per variant; remarks are one column."""
    return csv_of(
        {"metric": each.metric, "base": each.base, **row}
        for each in (comparison, *comparison.others)
        for row in each.variants_as_dicts()
    )


def csv_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns rows as comma-separated values; all have the keys of the first."""
    listed = list(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [key for key in listed[0] if key not in ("directories", "is_base")] if listed else []
    writer.writerow(keys)
    writer.writerows([_csv_word(row[key]) for key in keys] for row in listed)
    return out.getvalue()


def _csv_word(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{key}:{number!r}" for key, number in value.items())
    return "; ".join(value) if isinstance(value, list) else value


def as_json(comparison: Comparison) -> str:
    """Returns all numbers unrounded, with the values of each seed and the notes."""
    return json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n"
