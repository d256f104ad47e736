"""attnkit evaluate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, RunArgument, TrustPlugins, app, guarded
from attnkit.cli.translate import WeightsOption


class Form(StrEnum):
    """How an alignment file is written."""

    pharaoh = "pharaoh"
    naacl = "naacl"


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="A split of the run's own data (val, test, ...), or SOURCE,TARGET: two "
            "line-aligned files. May be given again; default: the run's own test sets.",
        ),
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="Gold word alignments of --data SOURCE,TARGET.")
    ] = None,
    gold_form: Annotated[
        Form,
        typer.Option(help="pharaoh: a line a sentence, 0-0 1-2; naacl: `sentence i j S|P` lines."),
    ] = Form.pharaoh,
    gold_index: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Number of the first word in --gold: 0 or 1. Say it."),
    ] = None,
    beam: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(min=0.0, help="Default: the recipe's.")
    ] = None,
    moses: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE",
            help="Also BLEU over lowercased, Moses-tokenised text, as older papers count "
            "(needs attnkit[moses]).",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the translations into this folder.")
    ] = None,
    weights: WeightsOption = None,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Score a translation run on any data: BLEU, chrF, loss, and alignments where gold is given."""

    def act() -> None:
        from attnkit import evaluation
        from attnkit.tasks.translation_scores import moses_tokenizer
        from attnkit.translator import load_translator

        # What cannot be is told before anything is translated.
        tokenize = None if moses is None else moses_tokenizer(moses)
        checkpoint = None if weights is None else weights.value
        translator = load_translator(run, checkpoint, trust_plugins=trust_plugins)
        search = translator.search(beam=beam, length_penalty=length_penalty)
        sets = evaluation.test_sets(
            translator, data or [], gold, form=gold_form.value, first_index=gold_index
        )
        for one in sets:
            evaluation.show(evaluation.evaluate(translator, one, search, tokenize, output))

    guarded(act, debug)
