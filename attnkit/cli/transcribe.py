"""attnkit transcribe."""

from __future__ import annotations

from typing import Annotated

import typer

from attnkit.cli.app import Debug, RunArgument, TrustPlugins, app, guarded
from attnkit.cli.translate import WeightsOption


@app.command()
def transcribe(
    run: RunArgument,
    sounds: Annotated[
        list[str],
        typer.Argument(
            help="WAV files, or sentences that the run's data can speak.", show_default=False
        ),
    ],
    beam: Annotated[
        int | None, typer.Option(min=1, help="Beam size; default: the recipe's.")
    ] = None,
    weights: WeightsOption = None,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Write down what is said in WAV files, with the time of each word.

    Prints the text of each sound, then a line per word: start and end in seconds, word.
    """

    def act() -> None:
        from attnkit.tasks.speech.transcriber import Transcriber
        from attnkit.tasks.trained_run import load_run

        which = None if weights is None else weights.value
        trained = load_run(run, weights=which, trust_plugins=trust_plugins)
        if not isinstance(trained, Transcriber):
            trained.refuse("does not read sounds")
        for transcript in trained.transcribe(sounds, trained.search(beam=beam)):
            for note in transcript.notes:
                typer.echo(f"{transcript.name}: {note}", err=True)
            prefix = f"{transcript.name}: " if len(sounds) > 1 else ""
            typer.echo(f"{prefix}{transcript.text}")
            for word in transcript.words:
                typer.echo(f"{word.start:8.2f} {word.end:6.2f}  {word.text}")

    guarded(act, debug)
