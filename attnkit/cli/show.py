"""attnkit list, attnkit show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, Overrides, app, guarded
from attnkit.garbage import quick_imports


@app.command("list")
def list_names(
    recipes: Annotated[Path, typer.Option(help="Folder whose recipes are listed.")] = Path(
        "recipes"
    ),
    debug: Debug = False,
) -> None:
    """List mechanisms, masks, positions, data, tokenizers, optimizers and recipes, a line each."""

    def act() -> None:
        with quick_imports():
            from attnkit import description

        description.show_names(recipes)

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
        with quick_imports():
            from attnkit import description

        description.show(what, overrides or [], plugin or [])

    guarded(act, debug)
