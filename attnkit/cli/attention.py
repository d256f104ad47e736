"""attnkit attention."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attnkit.cli.app import (
    Best,
    Debug,
    OverwriteFiles,
    RunArgument,
    Text,
    TrustPlugins,
    app,
    guarded,
)


@app.command()
def attention(
    run: RunArgument,
    text: Text,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="An output file: .html (a page), .png, .svg, .pdf (a figure), .npz (numbers); may "
            "be repeated. Default: attention.html.",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="For a figure: one layer, from 0. Default: all.", show_default=False),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(help="For a figure: one head, from 0. Default: all.", show_default=False),
    ] = None,
    scale: Annotated[
        Literal["row", "map", "one"],
        typer.Option(
            help="For a figure: the brightest colour is the largest weight of the row, of the map, "
            "or 1."
        ),
    ] = "row",
    mode: Annotated[
        Literal["weights", "values", "rollout"],
        typer.Option(
            help="For figures and numbers: the weights; the weights times the lengths of the "
            "values; or rollout, through all layers. The page has a menu for this."
        ),
    ] = "weights",
    best: Best = False,
    overwrite: OverwriteFiles = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Write a trained model's exact attention on a text: a page, a figure, or numbers."""

    def act() -> None:
        from attnkit.attention_page.text_maps import SUFFIXES
        from attnkit.errors import DataError
        from attnkit.storage.files import check_outs
        from attnkit.tasks.trained_run import load_run

        outs = out or [Path("attention.html")]
        check_outs(outs, SUFFIXES, overwrite=overwrite)
        maps = load_run(run, best=best, trust_plugins=trust_plugins).attention(text)
        for note in maps.notes:
            typer.echo(note, err=True)
        try:
            files = maps.save(
                *outs, layer=layer, head=head, scale=scale, mode=mode, overwrite=overwrite
            )
        except ValueError as error:
            raise DataError(str(error)) from error
        for file in files:
            typer.echo(f"wrote {file}")

    guarded(act, debug)
