"""attnkit ablate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from attnkit.cli.app import FAILED, Debug, Overrides, RecipeArgument, app, guarded, stopped

if TYPE_CHECKING:
    from attnkit.recipe import Recipe


@app.command()
def ablate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N|LIST", help="Number of seeds, or their list: 3 or 0,1,5."),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Make variants as large as the base: parameters, flops or cache_bytes.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT=X", help="Budget of each run in steps, tokens, flops or seconds."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Runs at the same time.")] = None,
    launcher: Annotated[
        str | None, typer.Option(metavar="NAME", help="Launcher of the runs: local, ray, slurm.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and their cost; start none.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Train plugins even if they break a law.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train the variants of a recipe, each with several seeds, and compare them.

    A key with several values, key=a,b,c, makes one variant per value; one with a range,
    key=0..0.3 or key=log:1e-4..1e-2, one per draw (ablation.draws=8). So does the recipe's section
    `ablation`, whose other keys are set as usual: 'ablation.tune={optimizer.lr: [1e-3, 3e-3]}'.
    Running the same command again continues an unfinished study.

    Example: attnkit ablate quickstart
        model.attention.name=multi_head,linear --seeds 3 --workers 2
    """
    flags = {
        "seeds": f"[{seeds}]" if seeds and "," in seeds else seeds,
        "match": match,
        "budget": budget and "{" + budget.replace("=", ": ", 1) + "}",
        "workers": workers,
        "launcher": launcher,
    }
    from_flags = [f"ablation.{key}={value}" for key, value in flags.items() if value is not None]

    codes = [0]

    def act() -> None:
        from attnkit.ablation.plan import load_study
        from attnkit.ablation.run_study import preview

        study = load_study(recipe, [*(overrides or []), *from_flags])
        if dry_run:
            preview(study)
        else:
            codes.append(train_study(study, check=not no_check))

    guarded(act, debug)
    if codes[-1]:
        raise typer.Exit(codes[-1])


def train_study(study: Recipe, *, check: bool = True) -> int:
    """Runs the unfinished trials of a study, prints its table and lists the failed runs.

    Args:
        study: a recipe with a section `ablation`.
        check: refuse plugins that break a law.

    Returns:
        The exit code.
    """
    from attnkit.ablation.compare import compare_runs
    from attnkit.ablation.launch import REFUSED, StudyStopped
    from attnkit.ablation.output import show_comparison
    from attnkit.ablation.run_study import run_study
    from attnkit.storage.run_directory import RunDirectoryError

    try:
        directory, failures = run_study(study, check=check)
    except StudyStopped as stop:
        return stopped(stop)
    try:
        show_comparison(compare_runs([directory]))
    except RunDirectoryError as error:  # nothing to compare; the failures follow
        typer.echo(str(error), err=True)
    for failure in failures:
        typer.echo(f"\n{failure}", err=True)
    if failures:
        noun = "run" if len(failures) == 1 else "runs"
        refused = any(failure.code == REFUSED for failure in failures)
        remedy = "the same command retries them"
        if refused:
            remedy = "fix the error first, then run the same command again"
        typer.echo(f"\n{len(failures)} {noun} failed; {remedy}", err=True)
    return FAILED if failures else 0
