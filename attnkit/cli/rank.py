"""attnkit rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attnkit.cli.app import FAILED, Debug, OverwriteFiles, app, guarded, stopped


@app.command()
def rank(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MECHANISM|PLUGIN ...]",
            help="Mechanisms: a name, a plugin file (my_attention.py), a module; with keys of the "
            "model in the same argument: 'multi_head mask={name: sliding_window, window: 8}'. "
            "A plugin file of a mask or position: name a row that uses it too. "
            "Default: show the table of the existing rows.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All mechanisms that come with attnkit.")
    ] = False,
    tier: Annotated[
        Literal["minutes", "hours", "gpu"],
        typer.Option(help="Size of the protocol: minutes or hours on a CPU, or a GPU."),
    ] = "minutes",
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="An output file: .md, .html (a page with sortable columns), .csv, .json; may be "
            "repeated. The rows are stored beside it as .json, and an existing table is extended.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the missing rows and their time; train none.")
    ] = False,
    overwrite: OverwriteFiles = False,
    debug: Debug = False,
) -> None:
    """Compare mechanisms in one table: the same protocol, with a learning rate tuned for each.

    Rows are kept in `runs/rank`, beside each table, and in the clone's docs/zoo.json. Only missing
    rows are trained, and the same command continues an interrupted one. docs/protocol.md describes
    the protocol.

    Example: attnkit rank linear my_attention.py --out table.html
    """
    codes = [0]

    def act() -> None:
        from attnkit.ablation.launch import StudyStopped
        from attnkit.ablation.ranking.output import (
            FORMS,
            export,
            rows_beside,
            show_ranking,
            with_rows,
        )
        from attnkit.ablation.ranking.protocol import protocol_of
        from attnkit.ablation.ranking.rank import prepare, show_work
        from attnkit.ablation.ranking.rank import rank as rank_subjects
        from attnkit.ablation.ranking.subject import subjects_named
        from attnkit.registry import ATTENTION
        from attnkit.storage.files import check_outs

        outs = out or []
        protocol = protocol_of(tier)
        tables = rows_beside(outs, protocol)
        # A table with its rows beside it is extended, not overwritten.
        extended = {table.with_suffix(suffix) for table in tables for suffix in FORMS}
        new = [out for out in with_rows(outs) if out not in extended]
        check_outs(new, FORMS, overwrite=overwrite)
        subjects = subjects_named([*(ATTENTION.names() if everything else ()), *(what or ())])
        if dry_run:
            show_work(prepare(protocol, subjects, tables, skip=everything), protocol)
            return
        try:
            ranking, failures = rank_subjects(protocol, subjects, tables, skip=everything)
        except StudyStopped as stop:
            codes.append(stopped(stop))
            return
        show_ranking(ranking)
        for file in export(ranking, outs):
            typer.echo(f"wrote {file}", err=True)
        for failure in failures:
            typer.echo(f"\n{failure}", err=True)
        codes.append(FAILED if failures else 0)

    guarded(act, debug)
    if codes[-1]:
        raise typer.Exit(codes[-1])
