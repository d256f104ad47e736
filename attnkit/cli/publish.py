"""attnkit publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, app, guarded


@app.command()
def publish(
    study: Annotated[Path, typer.Argument(help="Folder of a study.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder of the site.", show_default=False)],
    base: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="The variant to compare with.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="As in attnkit compare. Default: the study's.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a site in the folder.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a study as a static site: table, curves, attention maps, recipes."""

    def act() -> None:
        from attnkit.ablation.publish import publish as write_site

        index = write_site(study, folder, base=base, metric=metric, overwrite=overwrite)
        typer.echo(f"wrote {index}")

    guarded(act, debug)
