"""attnkit claim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnkit.cli.app import FAILED, Debug, app, guarded, stopped

if TYPE_CHECKING:
    from attnkit.recipe import Recipe


@app.command()
def claim(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|RECIPE|KEY=VALUE ...]",
            help="Claims by name, or a recipe (.yaml) with claims; and keys to change in their "
            "studies. Default: list the claims.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Test every claim that comes with attnkit.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Train only the few steps after which a claim holds (its key `quick`); exit code "
            "1 if one does not. Without names: every claim that has the key.",
        ),
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
        from attnkit.ablation.claims import ClaimError

        words = what or []
        overrides = [word for word in words if "=" in word or word.startswith("~")]
        names = [word for word in words if word not in overrides]
        if quick and out is not None:
            raise ClaimError("--quick writes no evidence; omit --out")
        if not names and not everything and not quick:
            if out is not None or dry_run or no_check or overrides:
                raise ClaimError(
                    "name the claims to test, or give --all (`attnkit claim` lists them)"
                )
            _list()
            return
        every = everything or not names
        for file, chosen in _studies(names, everything=every).items():
            parts = _parts(file, None if every else chosen, overrides, quick=quick)
            if not parts and not every:
                raise ClaimError(f"{file}: no claim has a quick test (a key `quick`)")
            for recipe, claims in parts:
                if dry_run:
                    _preview(recipe, claims)
                else:
                    codes.append(_test(recipe, claims, out, check=not no_check, quick=quick))

    guarded(act, debug)
    if any(codes):
        raise typer.Exit(max(codes))


def _studies(names: list[str], *, everything: bool) -> dict[Path, list[str] | None]:
    """Returns recipe of a study -> names of its claims to test; None: all of them."""
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
        elif Path(name).suffix or "/" in name:
            state = "is not a recipe" if Path(name).exists() else "does not exist"
            raise ClaimError(f"{name} {state}; give a claim, or a recipe with claims (.yaml)")
        else:
            raise ClaimError(
                f"there is no claim `{name}`{suggest(name, known)} (`attnkit claim` lists them; "
                "for claims of your own, give the recipe that has them, RECIPE.yaml)"
            )
    return found


def _parts(
    file: Path, names: list[str] | None, overrides: list[str], *, quick: bool
) -> list[tuple[Recipe, list[str]]]:
    """Returns the studies that test claims of a recipe, each with the names of its claims; several
    if claims need different numbers of steps.
    """
    from attnkit.ablation.claims import claims_of, quick_claims
    from attnkit.recipe import load_recipe

    recipe = load_recipe(file)
    claims = claims_of(recipe, quick_claims(recipe, names) if quick else names)
    if any(word.startswith("ablation.seeds=") for word in overrides):  # instead of the claims' own
        seeded = [name for name, claim in claims_of(recipe).items() if claim.seeds is not None]
        overrides = [*(f"ablation.claims.{name}.seeds=null" for name in seeded), *overrides]
    by_steps: dict[int | None, list[str]] = {}
    for name, claim in claims.items():
        by_steps.setdefault(claim.quick if quick else None, []).append(name)
    found = []
    for steps, selected in by_steps.items():
        few = [f"trainer.max_steps={steps}", f"name={recipe.name}_quick_{steps}"] if steps else []
        found.append((load_recipe(file, [*few, *overrides, "variant=base"]), selected))
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
    from attnkit.ablation.claims import claims_of, seeds_needed, with_all_seeds
    from attnkit.ablation.evidence import measured_text, threshold_text
    from attnkit.ablation.plan import read_plan
    from attnkit.ablation.run_study import prepare_study
    from attnkit.console import console

    base = read_plan(recipe).base
    for name, options in claims_of(recipe, names).items():
        console.print(f"[bold]{name}[/]")
        console.print(f"  {options.says}", markup=False)
        number = measured_text(options, options.subject, options.base or base)
        console.print(f"  {number}; claimed: {threshold_text(options)}", markup=False)
    study, launcher = prepare_study(with_all_seeds(recipe))
    launcher.close()
    needed = seeds_needed(recipe, names)
    trials = [
        trial
        for trial in study.trials()
        if trial.recipe.seed in needed.get(trial.recipe.variant, ())
    ]
    done = sum(trial.is_finished for trial in trials)
    steps = trials[0].recipe.trainer.max_steps
    console.print(
        f"{len(trials)} run{'s' * (len(trials) != 1)} of {steps:,} step{'s' * (steps != 1)} in "
        f"{study.directory}, "
        f"{done} of them finished: {', '.join(needed)}",
        markup=False,
    )


def _test(recipe, names: list[str], out: Path | None, *, check: bool, quick: bool) -> int:
    """Tests claims of a study, prints them and writes their evidence. A quick test writes none, and
    fails if a claim does not hold. Returns the exit code.
    """
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
    unconfirmed = [report for report in reports if quick and report.word != "holds"]
    for report in unconfirmed:
        typer.echo(
            f"\n{report.name}: {report.word} after {recipe.trainer.max_steps:,} steps; its key "
            "`quick` says that it holds",
            err=True,
        )
    if not quick:
        folder = out or recipe.runs_dir / recipe.name / "claims"
        for path in write_evidence(folder, [evidence_of(report, plan) for report in reports]):
            typer.echo(f"wrote {path}", err=True)
    for failure in failures:
        typer.echo(f"\n{failure}", err=True)
    return FAILED if failures or unconfirmed else 0
