"""attnkit check."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnkit.cli.app import FAILED, Debug, app, guarded

if TYPE_CHECKING:
    from attnkit.checks.card import Card


@app.command()
def check(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FILE|MODULE|KEY=VALUE ...",
            help="Mechanisms: a name, a plugin file (my_attention.py), a module; and their "
            "options, num_heads=6. A file of positions or masks is checked in multi_head.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Check every registered mechanism, and print a table.")
    ] = False,
    mask: Annotated[
        list[str] | None,
        typer.Option(help="Only under this mask: a name, or as in a recipe.", show_default=False),
    ] = None,
    role: Annotated[
        Literal["self", "cross"] | None,
        typer.Option(help="Only in this role.", show_default=False),
    ] = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Check all laws under every mask, position and role; takes minutes."
        ),
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the cards to this file.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Check every law for a mechanism, under every mask and position, and print its card.

    A law holds, does not apply, or is broken, with the evidence. The exit code is 1 if a law is
    broken or the mechanism raises an error.

    Example: attnkit check multi_head num_heads=6 head_dim=12
    """

    cards: list[Card] = []

    def act() -> None:
        import torch
        import yaml

        from attnkit.checks.card import check as check_mechanism
        from attnkit.checks.models import check_part
        from attnkit.checks.seats import ROLES
        from attnkit.checks.subjects import Subject, masks_of, refuse_unseated, subjects_of
        from attnkit.checks.terminal import CardPrinter, show_matrix
        from attnkit.registry import ATTENTION, RegistryError, Spec

        words = [word for word in what or [] if "=" not in word]
        if everything == bool(words):
            raise RegistryError("name a mechanism, a plugin file or a module, or give --all")
        torch.set_num_threads(1)  # small tensors: more threads cost time
        subjects = [subject for word in words for subject in subjects_of(word)]
        subjects = subjects or [Subject(name) for name in ATTENTION.names()]
        assignments = [word.partition("=") for word in what or [] if "=" in word]
        try:
            masks = masks_of([yaml.safe_load(text) for text in mask or []])
        except yaml.YAMLError as error:
            raise RegistryError(f"--mask: {str(error).splitlines()[0]}") from error
        mechanisms = [subject.name for subject in subjects if not subject.part]
        options_of = {name: _parse_options(name, assignments) for name in mechanisms if assignments}
        roles = ROLES if role is None else (role,)
        if not everything:
            refuse_unseated(subjects, masks, roles)
        for subject in subjects:
            printer, started = CardPrinter(subject), time.monotonic()
            if subject.part:
                card = check_part(subject.part, Spec(subject.name), printer.line)
            else:
                card = check_mechanism(
                    ATTENTION.get(subject.name),
                    options_of.get(subject.name),
                    masks=masks or subject.masks,
                    positions=subject.positions,
                    roles=roles,
                    thorough=thorough,
                    on_line=printer.line,
                )
                if ATTENTION.get(subject.name).reads_stream():  # its layers depend on each other
                    spec = Spec(subject.name, options_of.get(subject.name, {}))
                    tied = check_part("attention", spec, printer.line)
                    card = replace(card, lines=[*card.lines, *tied.lines])
            printer.end(card, time.monotonic() - started)
            cards.append(card)
        if len(cards) > 1 and not any(subject.part for subject in subjects):
            show_matrix(cards, subjects)
        if json_file is not None:
            titled = zip(subjects, cards, strict=True)
            content = [{"title": str(subject), **card.to_dict()} for subject, card in titled]
            text = json.dumps(content, indent=1)
            json_file.write_text(text + "\n", encoding="utf-8")

    guarded(act, debug)
    if any(card.broken for card in cards):
        raise typer.Exit(FAILED)


def _parse_options(name: str, assignments: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Parses options of a mechanism from the command line, and checks them like those of a recipe.

    Raises:
        RegistryError: if there is no such option, or its value is invalid.
    """
    import yaml

    from attnkit.recipe.errors import Mark
    from attnkit.recipe.schema import Checker
    from attnkit.recipe.source import node_of
    from attnkit.registry import ATTENTION, RegistryError, Spec

    try:
        options = {key: yaml.safe_load(value) for key, _, value in assignments}
    except yaml.YAMLError as error:
        raise RegistryError(f"an option: {str(error).splitlines()[0]}") from error
    node = node_of({"name": name, **options}, Mark("command line"))
    checker = Checker(ATTENTION.options(name), node)
    spec = checker.check(Annotated[Spec, ATTENTION], node, (name,))
    if checker.problems:
        raise RegistryError("; ".join(f"{p.key}: {p.message}" for p in checker.problems))
    return {key: spec.options[key] for key in options}
