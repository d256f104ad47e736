"""attnkit run."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from attnkit.cli.app import Debug, Overrides, RecipeArgument, app, guarded

if TYPE_CHECKING:
    from attnkit.recipe import Recipe

AllowChanges = Annotated[
    bool,
    typer.Option("--allow-changes", help="Resume even if changed keys affect what the run learns."),
]


class Resuming(StrEnum):
    """Values of `--resume`."""

    YES = "yes"
    AUTO = "auto"


class RunCommand(TyperCommand):
    """Reads `--resume` without a value as `--resume yes`, since overrides may follow it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Adds the value of `--resume`."""
        known = [value.value for value in Resuming]
        for i, (word, following) in enumerate(zip(args, [*args[1:], ""], strict=True)):
            if word == "--resume" and following not in known:
                args[i] = "--resume=yes"
        return super().parse_args(ctx, args)


@app.command(cls=RunCommand)
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run.")
    ] = False,
    resume: Annotated[
        Resuming | None,
        typer.Option(
            "--resume",
            metavar="[auto]",
            help="Continue an existing run; `auto`: only if there is one.",
        ),
    ] = None,
    allow_changes: AllowChanges = False,
    until: Annotated[
        int | None,
        typer.Option(
            metavar="STEP",
            min=1,
            help="Pause after this step; `attnkit resume` trains the rest of the schedule.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the recipe and print it with all defaults, without training."
        ),
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Train a plugin even if it breaks a law.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a recipe.

    Example: attnkit run quickstart model.attention.name=linear seed=1
    """

    if overwrite and resume:
        raise typer.BadParameter("--overwrite and --resume cannot be combined")

    def act() -> None:
        from attnkit.recipe import load_recipe
        from attnkit.recipe.listening import build_callbacks, build_loggers

        resolved = load_recipe(recipe, overrides or [])
        if dry_run:
            build_loggers(resolved)
            build_callbacks(resolved)
            typer.echo(resolved.to_yaml(), nl=False)
            return
        resume_mode = resume.value if resume else "no"
        train(
            resolved,
            overwrite=overwrite,
            resume=resume_mode,
            allow_changes=allow_changes,
            check=not no_check,
            until=until,
        )

    guarded(act, debug)


def train(recipe: Recipe, **options: Any) -> None:
    """Trains a recipe and prints the result; `options` are those of `experiment.run`."""
    from attnkit.console import tolerant_streams
    from attnkit.runs import experiment, report
    from attnkit.storage.run_directory import FinishedError, PausedError, is_first_process

    with tolerant_streams():
        try:
            result = experiment.run(recipe, **options)
        except (FinishedError, PausedError) as error:
            # Not a failure: schedulers start finished jobs again.
            typer.echo(str(error), err=True)
            return
        if is_first_process():
            try:
                report.show_result(result)
            except Exception as error:  # the run itself has succeeded
                typer.echo(
                    f"the run in {result.directory} is finished; its report failed: "
                    f"{type(error).__name__}: {error}",
                    err=True,
                )
