"""attnkit check."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from attnkit.cli.app import FAILED, Debug, app, guarded

if TYPE_CHECKING:
    from attnkit.checks.card import Card


@app.command()
def check(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Mechanisms: a name, a plugin file (my_attention.py), a module.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every registered mechanism, and a table of all.")
    ] = False,
    mask: Annotated[
        list[str] | None,
        typer.Option(help="Under this mask alone: a name, or as in a recipe.", show_default=False),
    ] = None,
    role: Annotated[
        Literal["self", "cross"] | None,
        typer.Option(help="In this role alone.", show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the cards here.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Ask every law about a mechanism, under every mask and position, and print its card.

    A law holds, does not apply, or is broken, with the evidence; exit code 1 if one is.
    """

    cards: list[Card] = []

    def act() -> None:
        import torch
        import yaml

        from attnkit.checks.card import check as ask
        from attnkit.checks.seats import ROLES
        from attnkit.checks.subjects import masks_of, mechanisms_of, refuse_unseated
        from attnkit.checks.terminal import CardPrinter, show_matrix
        from attnkit.registry import ATTENTION, RegistryError

        if everything == bool(what):
            raise RegistryError("name a mechanism, a plugin file or a module; or give --all")
        torch.set_num_threads(1)  # small tensors: more threads cost time
        names = [name for word in what or [] for name in mechanisms_of(word)] or ATTENTION.names()
        try:
            masks = masks_of([yaml.safe_load(text) for text in mask or []])
        except yaml.YAMLError as error:
            raise RegistryError(f"--mask: {str(error).splitlines()[0]}") from error
        roles = ROLES if role is None else (role,)
        if not everything:
            refuse_unseated(names, masks, roles)
        for name in names:
            printer, started = CardPrinter(name), time.monotonic()
            card = ask(ATTENTION.get(name), masks=masks, roles=roles, on_line=printer.line)
            printer.end(card, time.monotonic() - started)
            cards.append(card)
        if len(cards) > 1:
            show_matrix(cards)
        if json_file is not None:
            text = json.dumps([card.to_dict() for card in cards], indent=1)
            json_file.write_text(text + "\n", encoding="utf-8")

    guarded(act, debug)
    if any(card.broken for card in cards):
        raise typer.Exit(FAILED)
