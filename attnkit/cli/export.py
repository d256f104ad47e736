"""attnkit export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Best, Debug, RunArgument, TrustPlugins, app, guarded


@app.command()
def export(
    run: RunArgument,
    file: Annotated[
        Path, typer.Argument(help="Output file: NAME.safetensors.", show_default=False)
    ],
    best: Best = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Write a trained model's weights to one file, with its recipe and vocabulary inside.

    `attnkit generate`, `attention`, `translate` and `evaluate` accept such a file instead of a
    run; so does `attnkit.load_run`.
    """

    def act() -> None:
        from attnkit.tasks.trained_run import export_run

        options = {"best": best, "overwrite": overwrite, "trust_plugins": trust_plugins}
        model = export_run(run, file, **options).model
        count = sum(parameter.numel() for parameter in model.parameters())
        typer.echo(f"{file}: {count:,} parameters, {file.stat().st_size:,} bytes")

    guarded(act, debug)
