"""attnkit dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, app, guarded


@app.command()
def dashboard(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders with runs; default: `runs`.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the server; default: a free one near 6006."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses of this machine.")
    ] = "localhost",
    debug: Debug = False,
) -> None:
    """Open TensorBoard with attention maps and curves, also of runs in progress.

    Example: attnkit dashboard runs/quickstart
    """

    def act() -> None:
        from attnkit.dashboard.server import serve

        serve(runs or [Path("runs")], host, port, typer.echo)

    guarded(act, debug)
