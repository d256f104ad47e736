"""attnkit attention."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, RunArgument, app, guarded
from attnkit.garbage import quick_imports


@app.command()
def attention(
    run: RunArgument,
    text: Annotated[
        str,
        typer.Option(
            help="What the model reads; a translation run takes 'sentence' or "
            "'sentence ||| translation'.",
            show_default=False,
        ),
    ],
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file: .html (a page), .png, .npz (numbers); may be repeated. "
            "Default: attention.html.",
            show_default=False,
        ),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The checkpoint with the lowest validation loss.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a trained model's exact attention on a text: a page, a picture, or numbers."""

    def act() -> None:
        with quick_imports():
            from attnkit.attention_page.export import export

        outs = out or [Path("attention.html")]
        done = export(run, text, outs, best=best, overwrite=overwrite)
        for note in done.notes:
            typer.echo(note, err=True)
        for file in done.files:
            typer.echo(f"wrote {file}")

    guarded(act, debug)
