"""attnkit recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, app, guarded


def _names(incomplete: str) -> list[str]:
    """Names of recipes, for shell completion."""
    from attnkit.recipe.shipped import shipped_recipes

    return [file.stem for file in shipped_recipes().values() if file.stem.startswith(incomplete)]


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Recipe to print.", show_default=False, autocompletion=_names),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Copy the recipe and those that it extends to a folder; without NAME: all.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the recipes that come with attnkit, print one, or copy them.

    Example: attnkit recipes quickstart --to my_recipes
    """

    def act() -> None:
        from attnkit.cli import name_report
        from attnkit.recipe import shipped

        if to is not None:
            for file in shipped.copy_recipes(name, to):
                typer.echo(f"wrote {file}")
        elif name is not None:
            typer.echo(shipped.shipped_recipe(name).read_text(encoding="utf-8"), nl=False)
        else:
            name_report.show_names("recipes")

    guarded(act, debug)
