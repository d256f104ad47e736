"""attnkit list, attnkit show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, Overrides, app, guarded


def _kinds(incomplete: str) -> list[str]:
    """Kinds of names, for shell completion."""
    from attnkit.cli.name_report import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


@app.command("list")
def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="Only these: attention, masks, positions, data, tokenizers, optimizers, "
            "schedules, launchers, loggers, callbacks or recipes.",
            show_default=False,
            autocompletion=_kinds,
        ),
    ] = None,
    recipes: Annotated[
        Path | None,
        typer.Option(help="Folder of the recipes to list. Default: those of attnkit."),
    ] = None,
    debug: Debug = False,
) -> None:
    """List mechanisms, masks, positions, data, tokenizers, optimizers and recipes, one per line.

    Example: attnkit list masks
    """

    def act() -> None:
        from attnkit.cli import name_report

        name_report.show_names(kind, recipes)

    guarded(act, debug)


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(help="A name (such as multi_head) or a recipe file.", show_default=False),
    ],
    overrides: Overrides = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A plugin to load first: a file or a module.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Time the kernels that can compute the mechanism, forward and backward, on this "
            "machine.",
        ),
    ] = False,
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            help="A length to measure; may be repeated. Default: 1024 and 4096 on a GPU, 256 and "
            "1024 on a CPU.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show a mechanism (formula, paper, options, which kernel runs here and why) or what a recipe
    costs.

    Example: attnkit show multi_head --measure --tokens 1024
    """

    def act() -> None:
        from attnkit.cli import name_report
        from attnkit.registry import RegistryError

        if measure:
            name_report.measure(what, tokens or [], plugin or [])
            return
        if tokens:
            raise RegistryError("--tokens sets the lengths to measure; add --measure")
        name_report.show(what, overrides or [], plugin or [])

    guarded(act, debug)
