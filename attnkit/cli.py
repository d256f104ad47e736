"""The command line: parses, then calls one function. Nothing heavy is imported before a command
needs it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="attnkit",
    help="Experiments with attention: train recipes, look at the maps, compare mechanisms.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

FAILED, BAD_INPUT, DIVERGED, INTERRUPTED = 1, 2, 3, 130

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe file (YAML).", show_default=False)]
RunArgument = Annotated[
    Path, typer.Argument(help="A run's directory: runs/NAME/VARIANT/seedK.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE ... ~KEY]", help="Keys to change, or (~) to remove.", show_default=False
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def not_empty(value: str) -> str:
    """Refuses an empty text: a model needs a token to go on from."""
    if not value:
        raise typer.BadParameter("it is empty; give it at least one character")
    return value


def above_0_up_to_1(value: float | None) -> float | None:
    """Refuses what is no probability to draw from."""
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"it must be above 0 and at most 1, got {value}")
    return value


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run that is already there.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the recipe and show it resolved; train nothing."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Train what a recipe describes.

    Example: attnkit run recipes/language_modeling/quickstart.yaml model.attention.name=linear
        seed=1
    """

    def act() -> None:
        from attnkit.recipe import load_recipe

        resolved = load_recipe(recipe, overrides or [])
        if dry_run:
            typer.echo(resolved.to_yaml(), nl=False)
            return
        from attnkit import experiment, report
        from attnkit.run_directory import is_first_process

        result = experiment.run(resolved, overwrite=overwrite)
        if is_first_process():
            report.show_result(result)

    guarded(act, debug)


@app.command("list")
def list_names(
    recipes: Annotated[Path, typer.Option(help="Folder whose recipes are listed.")] = Path(
        "recipes"
    ),
    debug: Debug = False,
) -> None:
    """List mechanisms, masks, positions, data, tokenizers, optimizers and recipes, a line each."""

    def act() -> None:
        from attnkit import report

        report.show_names(recipes)

    guarded(act, debug)


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(help="A name (say, multi_head) or a recipe file.", show_default=False)
    ],
    overrides: Overrides = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A plugin to load first: a file or a module.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Show a mechanism (formula, paper, options, which kernel runs here and why) or what a recipe
    costs.
    """

    def act() -> None:
        from attnkit import report

        report.show(what, overrides or [], plugin or [])

    guarded(act, debug)


@app.command()
def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Option(help="The text to go on from.", callback=not_empty)] = "\n",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 300,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0: always the likeliest token.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw among the k likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw among the likeliest that sum to p.", callback=above_0_up_to_1),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    best: Annotated[
        bool, typer.Option("--best", help="The checkpoint with the lowest validation loss.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Let a trained language model go on from a prompt."""

    def act() -> None:
        from attnkit.trained_run import load_run

        trained = load_run(run, best=best)
        if unknown := trained.unknown_in(prompt):
            typer.echo(f"the run's vocabulary lacks {', '.join(map(repr, unknown))}", err=True)
        for piece in trained.stream(
            prompt, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        ):
            typer.echo(piece, nl=False)
            sys.stdout.flush()
        typer.echo()

    guarded(act, debug)


def guarded(act: Callable[[], Any], debug: bool) -> None:
    """Runs a command; what the user can mend becomes one message and exit code 2, without a
    traceback.
    """
    try:
        act()
    except KeyboardInterrupt as error:
        typer.echo(" ".join(["interrupted", *map(str, error.args)]), err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader has seen enough (`| head`); typer ends quietly
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = exit_code(error)
        if code != FAILED or debug:
            typer.echo(f"error: {error}", err=True)
        else:
            typer.echo(f"error: {type(error).__name__}: {error}\n(--debug shows where)", err=True)
        raise typer.Exit(code) from None


def exit_code(error: Exception) -> int:
    """2 for the errors whose message tells the user what to mend, 3 for a run that diverged, else
    1. Errors are known by name: importing their classes costs seconds.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"RecipeError", "RegistryError", "DataError", "RunDirectoryError", "HardwareError"}:
        return BAD_INPUT
    return DIVERGED if "DivergedError" in kinds else FAILED


def main() -> None:
    """Entry point of the console script."""
    app()
