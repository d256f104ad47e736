"""Prints tested claims, and writes their evidence: a file for each claim, and a table of all.

<folder>/
    README.md      the table of all claims with evidence in the folder
    <claim>.json   what was compared, the numbers by seed, the result, machine, commit, command
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnkit.ablation.claims import ClaimError, ClaimReport, Judgement
from attnkit.ablation.plan import Plan, plain_changes
from attnkit.ablation.stored_run import StoredRun
from attnkit.ablation.tables import visible
from attnkit.console import console
from attnkit.recipe import ClaimOptions
from attnkit.recipe.writing import plain_types
from attnkit.storage.files import atomic_write, parse_json

VERSION = 1
TABLE = "README.md"
STYLES = {"holds": "green", "does not hold": "red", "not decided": "yellow"}


def show_claim(report: ClaimReport) -> None:
    """Prints a claim, its result, and the numbers behind it."""
    claim, style = report.claim, STYLES[report.word]
    console.print(f"[bold]{report.name}[/]  [{style}]{report.word}[/] at this size")
    console.print(f"  {claim.says}", markup=False)
    for line in _lines(report):
        console.print(f"  {line}", markup=False)


def _lines(report: ClaimReport) -> Iterator[str]:
    claim = report.claim
    on = f"{measured_text(claim, claim.subject, report.base)}: {words(report.subject, claim)}"
    yield f"{on}; claimed: {threshold_text(claim)}"
    off = measured_text(claim, claim.switched_off, report.base)
    yield f"switched off, {off}: {words(report.switched_off, claim)}; {report.switched_off.word}"
    if report.switched_off.estimate is None:
        yield "no run has the idea switched off, so this does not test the idea"
    elif report.switched_off.word != "does not hold":
        yield "the claim is not refuted with the idea switched off, so this does not test the idea"
    for number in (claim.number, *claim.also):
        means = ", ".join(
            f"{variant} {short(sum(values.values()) / len(values))}"
            for variant, of_variant in report.numbers.items()
            if (values := of_variant[number])
        )
        yield f"{number}: {means}"


def measured_text(claim: ClaimOptions, variant: str, base: str) -> str:
    """Returns `loss of base - variant`, which is positive if the claim is right."""
    more, less = (variant, base) if claim.direction == "higher" else (base, variant)
    return f"{claim.number} of {more} {'-' if claim.times is None else '/'} {less}"


def threshold_text(claim: ClaimOptions) -> str:
    """Returns the threshold in words."""
    return f"at least {claim.by:+g}" if claim.times is None else f"at least {claim.times:g} times"


def words(judgement: Judgement, claim: ClaimOptions) -> str:
    """Returns `+0.412 ± 0.103 (3 seeds)`."""
    estimate = judgement.estimate
    if estimate is None:
        return "no seed in common"
    sign = "+" if claim.times is None else ""
    half = "" if estimate.half_width is None else f" ± {short(estimate.half_width)}"
    seeds = f"{estimate.n} seed{'s' * (estimate.n > 1)}"
    return f"{short(estimate.mean, sign)}{half} ({seeds})"


def short(number: float, sign: str = "") -> str:
    """Returns a number with three decimals, or without any if it is large."""
    return f"{number:{sign},.0f}" if abs(number) >= 1000 else f"{number:{sign}.3f}"


def evidence_of(report: ClaimReport, plan: Plan) -> dict[str, Any]:
    """Returns the evidence in plain types.

    Args:
        report: the tested claim.
        plan: of the study that tested it.
    """
    runs = [run for by_seed in report.runs.values() for run in by_seed.values()]
    first = runs[0]
    return {
        "version": VERSION,
        "name": report.name,
        "result": report.word,
        "claim": plain_types(replace(report.claim, quick=None)),  # this was the full test
        "base": report.base,
        "subject": _plain(report.subject),
        "switched_off": _plain(report.switched_off),
        "numbers": {
            variant: {
                number: {str(seed): value for seed, value in by_seed.items()}
                for number, by_seed in of_variant.items()
            }
            for variant, of_variant in report.numbers.items()
        },
        "study": {
            "recipe": plan.recipe.name,
            "variants": {name: plain_changes(plan.variant(name).changes) for name in report.runs},
            "tuned": plan.options.tune is not None,
            "steps": first.record["steps"],
            "tokens": first.record["tokens"],
            "parameters": {
                variant: next(iter(by_seed.values())).record["parameters"]
                for variant, by_seed in report.runs.items()
                if by_seed
            },
        },
        "training_seconds": round(sum(run.record.get("seconds", 0) for run in runs), 1),
        "machine": machine_of(first),
        "commit": commit(),
        "command": ["attnkit", "claim", report.name, *(word for word in sys.argv if "=" in word)],
        "date": datetime.now(UTC).date().isoformat(),
    }


def _plain(judgement: Judgement) -> dict[str, Any]:
    estimate = judgement.estimate
    numbers = {} if estimate is None else {"mean": estimate.mean, "n": estimate.n}
    if estimate is not None and estimate.half_width is not None:
        numbers |= {"low": estimate.low, "high": estimate.high}
    return {"result": judgement.word, **numbers}


def machine_of(run: StoredRun) -> dict[str, Any]:
    """Returns where a run was trained, and with which packages."""
    packages = run.environment.get("packages", {})
    return {
        **{key: run.environment.get(key) for key in ("platform", "python", "cpu_cores")},
        "device": run.record.get("device"),
        "threads": run.environment.get("threads"),
        "packages": {name: packages.get(name) for name in ("attnkit", "torch")},
    }


def commit() -> str | None:
    """Returns the commit that attnkit runs from; `+` marks changes. None: it is not a clone."""
    folder = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=9"]
    if not (folder / ".git").exists():
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_evidence(folder: Path, evidence: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes the evidence of claims to a folder, and the table of all evidence there.

    Raises:
        ClaimError: if the folder cannot be created, or a file in it is not evidence.
        DataError: if a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClaimError(f"--out {folder}: {error.strerror}; name a folder") from None
    contents = {
        folder / f"{each['name']}.json": json.dumps(each, indent=1, ensure_ascii=False) + "\n"
        for each in evidence
    }
    stored = read_evidence(folder) | {each["name"]: each for each in evidence}
    contents[folder / TABLE] = table_of(dict(sorted(stored.items())))
    for path, text in contents.items():
        with atomic_write(path) as file:
            file.write(text.encode())
    return list(contents)


def read_evidence(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Returns the evidence in a folder, by the name of its claim.

    Raises:
        ClaimError: if a file cannot be read, or is of another version.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = parse_json(path.read_bytes())
            version = content["version"]
            found[content["name"]] = content
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClaimError(f"{path} is not evidence of a claim ({error}); remove it") from None
        if version != VERSION:
            raise ClaimError(
                f"{path} has version {version}, this attnkit writes version {VERSION}; remove it, "
                "and test the claim again"
            )
    return found


def table_of(evidence: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of evidence in Markdown."""
    rows = [
        "| claim | result | measured | claimed | switched off |",
        "|---|---|---|---|---|",
    ]
    details = []
    for name, each in evidence.items():
        claim = ClaimOptions(**each["claim"])
        off = f"{_interval(each['switched_off'], claim)}, {each['switched_off']['result']}"
        if claim.switched_off == each["base"]:
            off = "the base itself"
        rows.append(
            f"| [{name}]({name}.json) | **{each['result']}** | "
            f"{_interval(each['subject'], claim)} | {threshold_text(claim)} | {off} |"
        )
        details += _details(name, each, claim)
    counts = {word: [each["result"] for each in evidence.values()].count(word) for word in STYLES}
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    return "\n".join(
        [
            "# Claims",
            "",
            "Written by `attnkit claim NAME --out FOLDER`. Each claim of a paper is tested at a",
            "small size: one number of two variants is compared, paired by seed, with a 95 %",
            "interval. The claim holds if the whole interval is beyond the claimed value, and does",
            "not hold if none of it is. With the idea switched off it must not hold (`the base",
            "itself`: without its idea, the mechanism is the base). A result applies to this size,",
            "data and training only; it is not a verdict on the paper.",
            "",
            f"{len(evidence)} claims: {summary}.",
            "",
            *rows,
            "",
            *details,
        ]
    )


def _interval(judged: Mapping[str, Any], claim: ClaimOptions) -> str:
    if "mean" not in judged:
        return "no seed in common"
    sign = "+" if claim.times is None else ""
    mean = short(judged["mean"], sign)
    if "low" not in judged:
        return f"{mean} (one seed)"
    return f"{mean} ({short(judged['low'])} to {short(judged['high'])})"


def _details(name: str, each: Mapping[str, Any], claim: ClaimOptions) -> Iterator[str]:
    study, machine = each["study"], each["machine"]
    yield f"## {name}"
    yield ""
    yield visible(claim.says) + (f" ({claim.paper})" if claim.paper else "")
    yield ""
    yield f"Measured: {measured_text(claim, claim.subject, each['base'])}."
    yield ""
    numbers = (claim.number, *claim.also)
    yield f"| variant | parameters | {' | '.join(f'{number}, by seed' for number in numbers)} |"
    yield f"|---|---:|{'---|' * len(numbers)}"
    for variant, of_variant in each["numbers"].items():
        cells = [", ".join(map(short, of_variant[number].values())) for number in numbers]
        parameters = study["parameters"].get(variant)
        count = "-" if parameters is None else f"{parameters:,}"
        yield f"| {variant} | {count} | {' | '.join(cells)} |"
    yield ""
    tuned = "tuned" if study["tuned"] else "not tuned"
    packages = machine["packages"]
    yield (
        f"Study `{study['recipe']}`: {study['steps']:,} steps, {study['tokens']:,} tokens per run, "
        f"learning rate {tuned}; {each['training_seconds']:,.0f} s of training in all, "
        f"{machine['device']}, {machine['platform']}, {machine['threads']} thread(s), torch "
        f"{packages['torch']}; judged by attnkit {packages['attnkit']} at {each['commit']}, "
        f"{each['date']}. "
        f"Command: `{' '.join(each['command'])}`"
    )
    yield ""
