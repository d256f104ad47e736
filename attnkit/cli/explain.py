"""attnkit explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
def explain(
    run: RunArgument,
    text: Text,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="An output file: .html (a page), .png (a figure), .npz (numbers); may be "
            "repeated. Default: explanation.html.",
            show_default=False,
        ),
    ] = None,
    best: Best = False,
    overwrite: OverwriteFiles = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Show what each part of a model adds to its prediction after each token.

    The residual stream is split into the embedding, the proposal of each attention head, and each
    MLP; their effects sum to the logits.
    """

    def act() -> None:
        from attnkit.storage.files import check_outs
        from attnkit.tasks.trained_run import load_run
        from attnkit.understanding.explanation import SUFFIXES, Explanation

        outs = out or [Path("explanation.html")]
        check_outs(outs, SUFFIXES, overwrite=overwrite)
        explanation = Explanation.of(load_run(run, best=best, trust_plugins=trust_plugins), text)
        for note in explanation.notes:
            typer.echo(note, err=True)
        for file in explanation.save(*outs, overwrite=overwrite):
            typer.echo(f"wrote {file}")

    guarded(act, debug)
