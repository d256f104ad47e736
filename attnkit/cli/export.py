"""attnkit export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, RunArgument, TrustPlugins, app, guarded


@app.command()
def export(
    run: RunArgument,
    file: Annotated[
        Path, typer.Argument(help="What to write: NAME.safetensors.", show_default=False)
    ],
    best: Annotated[
        bool, typer.Option("--best", help="The checkpoint with the lowest validation loss.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is already there.")
    ] = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Write a trained model's weights alone into one file, with its recipe and vocabulary inside.

    `attnkit generate` and `attnkit translate` take such a file where they take a run; so do
    `attnkit.load_run` and `attnkit.translator.load_translator`.
    """

    def act() -> None:
        from attnkit.recipe.stored import written_recipe

        if written_recipe(run).task == "translation":
            from attnkit.translator import export_translator as export_it
        else:
            from attnkit.trained_run import export_run as export_it

        options = {"best": best, "overwrite": overwrite, "trust_plugins": trust_plugins}
        model = export_it(run, file, **options).model
        count = sum(parameter.numel() for parameter in model.parameters())
        typer.echo(f"{file}: {count:,} parameters, {file.stat().st_size:,} bytes")

    guarded(act, debug)
