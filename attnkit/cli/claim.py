"""attnkit claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import FAILED, Debug, app, guarded, stopped


@app.command()
def claim(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|RECIPE|KEY=VALUE ...]",
            help="Claims by name, or a recipe (.yaml) with claims; and keys to change in their "
            "studies. Without any: the list of claims.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Test every claim that comes with attnkit.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write the evidence to this folder, with a table of all claims there. Default: "
            "the folder of the study's runs.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the claims and their runs; start none.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Train plugins even if they break a law.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Test claims of papers at a small size: holds, does not hold, or not decided.

    A claim is a section of a study's recipe, `ablation.claims`. Only the runs that are missing are
    trained, as by `attnkit ablate`.

    Example: attnkit claim delta_net ablation.seeds=5
    """
    codes = [0]

    def act() -> None:
        from attnkit.recipe import load_recipe

        words = what or []
        overrides = [word for word in words if "=" in word or word.startswith("~")]
        names = [word for word in words if word not in overrides]
        if not names and not everything:
            _list()
            return
        for file, chosen in _studies(names, everything=everything).items():
            recipe = load_recipe(file, [*overrides, "variant=base"])
            if dry_run:
                _preview(recipe, chosen)
            else:
                codes.append(_test(recipe, chosen, out, check=not no_check))

    guarded(act, debug)
    if any(codes):
        raise typer.Exit(max(codes))


def _studies(names: list[str], *, everything: bool) -> dict[Path, list[str] | None]:
    """Returns the recipe of each study -> the names of its claims; None: all of them."""
    from attnkit.ablation.claims import ClaimError
    from attnkit.recipe.shipped import shipped_claims
    from attnkit.registry import suggest

    known = shipped_claims()
    found: dict[Path, list[str] | None] = {}
    for name in [*known] if everything else names:
        if name.endswith((".yaml", ".yml")):
            found[Path(name)] = None
        elif name in known:
            found.setdefault(known[name], [])
            chosen = found[known[name]]
            if chosen is not None:
                chosen.append(name)
        else:
            raise ClaimError(
                f"there is no claim `{name}`{suggest(name, known)} (`attnkit claim` lists them; "
                "a recipe with claims of your own ends in .yaml)"
            )
    return found


def _list() -> None:
    from rich.table import Table
    from rich.text import Text

    from attnkit.ablation.claims import claims_of
    from attnkit.console import console
    from attnkit.recipe import load_recipe
    from attnkit.recipe.shipped import shipped_claims

    known = shipped_claims()
    studies = {file: claims_of(load_recipe(file)) for file in dict.fromkeys(known.values())}
    table = Table(box=None, show_header=False)
    table.add_column(style="cyan", no_wrap=True, min_width=18)
    table.add_column()
    for name, file in known.items():
        table.add_row(name, Text(studies[file][name].says))
    console.print(table)


def _preview(recipe, names: list[str] | None) -> None:
    from attnkit.ablation.claims import claims_of, variants_of
    from attnkit.ablation.evidence import claimed, compared
    from attnkit.ablation.plan import read_plan
    from attnkit.ablation.run_study import prepare_study
    from attnkit.console import console

    base = read_plan(recipe).base
    for name, each in claims_of(recipe, names).items():
        console.print(f"[bold]{name}[/]")
        console.print(f"  {each.says}", markup=False)
        number = compared(each, each.subject, each.base or base)
        console.print(f"  {number}; claimed: {claimed(each)}", markup=False)
    study, launcher = prepare_study(recipe)
    launcher.close()
    variants = variants_of(recipe, names)
    trials = [trial for trial in study.trials() if trial.recipe.variant in variants]
    done = sum(trial.is_finished for trial in trials)
    console.print(
        f"{len(trials)} runs of {trials[0].recipe.trainer.max_steps:,} steps in {study.directory}, "
        f"{done} of them finished: {', '.join(variants)}",
        markup=False,
    )


def _test(recipe, names: list[str] | None, out: Path | None, *, check: bool) -> int:
    """Tests the claims of a study, prints them and writes their evidence; returns the exit code."""
    from attnkit.ablation.claims import run_claims
    from attnkit.ablation.evidence import evidence_of, show_claim, write_evidence
    from attnkit.ablation.launch import StudyStopped
    from attnkit.ablation.plan import read_plan

    try:
        reports, failures = run_claims(recipe, names, check=check)
    except StudyStopped as stop:
        return stopped(stop)
    plan = read_plan(recipe)
    for report in reports:
        show_claim(report)
    folder = out or recipe.runs_dir / recipe.name / "claims"
    for path in write_evidence(folder, [evidence_of(report, plan) for report in reports]):
        typer.echo(f"wrote {path}", err=True)
    for failure in failures:
        typer.echo(f"\n{failure}", err=True)
    return FAILED if failures else 0
