"""attnkit evaluate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, RunArgument, TrustPlugins, app, guarded
from attnkit.cli.translate import WeightsOption


class Form(StrEnum):
    """Formats of an alignment file."""

    pharaoh = "pharaoh"
    naacl = "naacl"


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="A split of the run's own data (val, test, ...), or a file: text for a language "
            "model, SOURCE,TARGET (two line-aligned files) for a translation run. May be "
            "repeated; default: the run's own test sets, or validation text.",
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(
            "--length",
            min=1,
            help="Length of a window or sequence in tokens, which may exceed the training length "
            "where the positions allow it. May be repeated. For tasks with one sequence.",
        ),
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="Gold word alignments of --data SOURCE,TARGET.")
    ] = None,
    gold_form: Annotated[
        Form | None,
        typer.Option(
            help="pharaoh (default): lines `0-0 1-2` per sentence; naacl: lines `sentence i j S|P`."
        ),
    ] = None,
    gold_index: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Number of the first word in --gold: 0 or 1. Required."),
    ] = None,
    beam: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(min=0.0, help="Default: the recipe's.")
    ] = None,
    moses: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE",
            help="Also compute BLEU of lowercased, Moses-tokenised text, as in older papers "
            "(needs attnkit[moses]).",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the translations to this folder.")
    ] = None,
    weights: WeightsOption = None,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Evaluate a run on any data.

    A language model: loss, bits per byte and perplexity of any text. A synthetic task: accuracy. A
    translation run: BLEU, chrF, loss, and alignments if gold ones are given. A speech run: error
    rates of letters and words, and of word boundaries where they are known.
    """
    flags = {
        "--length": length,
        "--gold": gold,
        "--gold-form": gold_form and gold_form.value,
        "--gold-index": gold_index,
        "--beam": beam,
        "--length-penalty": length_penalty,
        "--moses": moses,
        "--output": output,
    }
    options = {name: value for name, value in flags.items() if value is not None}

    def act() -> None:
        from attnkit.console import console
        from attnkit.errors import DataError
        from attnkit.tasks.trained_run import load_run

        which = None if weights is None else weights.value
        trained = load_run(run, weights=which, trust_plugins=trust_plugins)
        for name in options:
            if name not in trained.evaluation_options:
                raise DataError(
                    f"{name} does not apply to a run of the task {trained.recipe.task}; remove it"
                )
        named = {name.removeprefix("--").replace("-", "_"): x for name, x in options.items()}
        for part in trained.evaluate(data or [], **named):
            console.print(part)

    guarded(act, debug)
