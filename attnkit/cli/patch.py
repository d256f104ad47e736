"""attnkit patch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Best, Debug, OverwriteFiles, RunArgument, TrustPlugins, app, guarded


@app.command()
def patch(
    run: RunArgument,
    clean: Annotated[
        str, typer.Option(help="A text that the model continues correctly.", show_default=False)
    ],
    corrupted: Annotated[
        str,
        typer.Option(
            help="A corrupted version of that text, with the same number of tokens.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the numbers to this .json file.", show_default=False),
    ] = None,
    best: Best = False,
    overwrite: OverwriteFiles = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Find the heads that carry the difference between two texts.

    Each head in turn gets, on the corrupted text, the output that it had on the clean one
    (activation patching). Prints by layer and head how much that raises the log-probability of the
    token that the model expects after the clean text.
    """

    def act() -> None:
        from attnkit.console import console
        from attnkit.errors import DataError
        from attnkit.storage.files import atomic_write, check_outs
        from attnkit.tasks.trained_run import load_run
        from attnkit.understanding.patching import patch_heads

        if clean.strip() == corrupted.strip():
            raise DataError("--clean and --corrupted are equal, so no head carries a difference")
        if out is not None:
            check_outs([out], (".json",), overwrite=overwrite)
        trained = load_run(run, best=best, trust_plugins=trust_plugins)
        patching = patch_heads(trained, clean, corrupted)
        for note in patching.notes:
            typer.echo(note, err=True)
        for part in patching.shown():
            console.print(part)
        if out is not None:
            with atomic_write(out) as opened:
                opened.write(patching.as_json().encode())
            console.print(f"wrote {out}")

    guarded(act, debug)
