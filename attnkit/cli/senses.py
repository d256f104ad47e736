"""attnkit senses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, TrustPlugins, app, guarded

RECIPE = "understanding/mole"


@app.command()
def senses(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Runs of language modeling, masked or not, to compare. Default: a run of "
            "`understanding/mole`, which is trained if there is none.",
            show_default=False,
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(help="A word with several senses. Default: every word.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Sentences, one per line: word, tab, sense, tab, sentence. Default: the run's "
            "validation split if it has such data, else a built-in set.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="A figure of the layers side by side (.png, .svg, .pdf); needs --word; may be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Show how the layers of a model separate the senses of a word.

    Prints, by layer, how pure the neighbourhoods of the word's vectors are, with an interval, a
    shuffled baseline, the untrained model, and attention switched off. With --word it also writes
    the vectors to the run, for TensorBoard's Projector.

    Example: attnkit senses runs/mole/base/seed0 --word mole --out mole.png
    """

    def act() -> None:
        from attnkit.console import console
        from attnkit.errors import DataError
        from attnkit.storage.files import atomic_write, check_outs
        from attnkit.storage.run_directory import single_run
        from attnkit.tasks.trained_run import load_run
        from attnkit.understanding.senses import (
            comparison_table,
            examine,
            of_all_words,
            shown,
            usages_for,
            words_of,
        )
        from attnkit.understanding.senses_picture import SUFFIXES, draw, write_projector

        if out and word is None:
            raise DataError("--out draws one word; add --word WORD")
        check_outs(out or [], SUFFIXES, overwrite=overwrite)
        if data is not None and not data.is_file():
            raise DataError(f"--data {data} does not exist")
        trained = [
            load_run(single_run(path), trust_plugins=trust_plugins)
            for path in runs or [_recipe_run()]
        ]
        sources = [usages_for(run, data) for run in trained]
        if any(usages != sources[0][0] for usages, _ in sources):
            raise DataError(
                "these runs have different sentences; set the same ones with --data FILE"
            )
        if word is None:
            for run, (usages, origin) in zip(trained, sources, strict=True):
                results = [examine(run, name, usages, origin) for name in words_of(usages)]
                for part in of_all_words(results):
                    console.print(part)
            return
        results = []
        for run, (usages, origin) in zip(trained, sources, strict=True):
            results.append(examine(run, word, usages, origin))
            for part in shown(results[-1], origin):
                console.print(part)
        if len(results) > 1:
            console.print(comparison_table(results))
        for path in out or []:
            with atomic_write(path) as file:
                file.write(draw(results, path.suffix))
            console.print(f"wrote {path}")
        for run, result in zip(trained, results, strict=True):
            if run.origin.is_dir():
                console.print(f"wrote {write_projector(run.origin, result)}")
                console.print(f"Projector: tensorboard --logdir {run.origin}")

    guarded(act, debug)


def _recipe_run() -> Path:
    """The run of the recipe; trains it if it is missing."""
    from attnkit.cli.run import train
    from attnkit.recipe import load_recipe

    recipe = load_recipe(RECIPE)
    train(recipe, resume="auto")
    return recipe.run_dir
