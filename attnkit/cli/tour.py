"""attnkit tour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, Overrides, app, guarded


@app.command()
def tour(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Output file, an .html page.")] = Path("tour.html"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing page.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train small models and write a guided tour of attention, in English and Korean.

    Each page of the tour shows one idea (the map, the mask, many heads, ...), with a switch that
    turns it off. The runs are ordinary runs in runs/; finished ones are reused.

    Example: attnkit tour trainer.accelerator=cpu
    """

    def act() -> None:
        from attnkit.console import tolerant_streams
        from attnkit.storage.files import atomic_write, check_outs
        from attnkit.understanding.tour.tour import tour as make

        check_outs([out], (".html",), overwrite=overwrite)
        with tolerant_streams():
            page = make(tuple(overrides or ()), typer.echo)
        with atomic_write(out) as file:
            file.write(page.encode())
        typer.echo(f"wrote {out}; open it in a browser")

    guarded(act, debug)
