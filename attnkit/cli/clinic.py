"""attnkit clinic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Best, Debug, OverwriteFiles, RunArgument, TrustPlugins, app, guarded


@app.command()
def clinic(
    run: RunArgument,
    tokens: Annotated[
        int,
        typer.Option(
            min=1, help="Validation tokens of the knock-outs; at least one batch is used."
        ),
    ] = 4096,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write all numbers to this .json file.", show_default=False),
    ] = None,
    best: Best = False,
    overwrite: OverwriteFiles = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Show what each attention head of a trained model does.

    Prints every head with its scores (entropy, distance, previous-token, induction, ...) and its
    knock-out: how much the validation loss rises without it. If the run trained with the callback
    `head_clinic`, also says when each pattern formed. Stores the scores in the run's `clinic.json`,
    for the Clinic view of the Attention page.
    """

    def act() -> None:
        from attnkit.console import console
        from attnkit.storage.files import atomic_write, check_outs
        from attnkit.tasks.trained_run import load_run
        from attnkit.understanding.clinic import examine
        from attnkit.understanding.clinic_table import add_to_history, as_json, history_in, shown
        from attnkit.understanding.run_task import step_of, task_of

        if out is not None:
            check_outs([out], (".json",), overwrite=overwrite)
        trained = load_run(run, best=best, trust_plugins=trust_plugins)
        step = step_of(trained, best=best)
        report = examine(task_of(trained), max_tokens=tokens)
        for part in shown(report, trained.title):
            console.print(part)
        for sentence in history_in(trained.origin):
            console.print(sentence)
        if step is not None:
            console.print(add_to_history(report, trained.origin, step))
        if out is not None:
            with atomic_write(out) as opened:
                opened.write(as_json(report).encode())
            console.print(f"wrote {out}")

    guarded(act, debug)
