"""attnkit new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, app, guarded


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Name of the mechanism, such as my_attention.", show_default=False)
    ],
    like: Annotated[str, typer.Option(help="The mechanism to start from.")] = "multi_head",
    debug: Debug = False,
) -> None:
    """Create a mechanism here: a file that overrides one step, and its test."""

    def act() -> None:
        from attnkit.checks.new_mechanism import next_commands, write

        for file in write(name, like, Path()):
            typer.echo(f"wrote {file}")
        typer.echo()
        for purpose, command in next_commands(name, like).items():
            typer.echo(f"{purpose:<12}{command}")

    guarded(act, debug)
