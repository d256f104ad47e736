"""attnkit evaluate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from attnkit.cli.app import Debug, RunArgument, TrustPlugins, app, guarded
from attnkit.cli.translate import Weights, WeightsOption


class Form(StrEnum):
    """How an alignment file is written."""

    pharaoh = "pharaoh"
    naacl = "naacl"


def _check_unused(task: str, options: dict[str, object]) -> None:
    """Refuses options that mean nothing for a run's task."""
    from attnkit.errors import DataError

    for name, value in options.items():
        if value is not None:
            raise DataError(f"{name} means nothing for a run of the task {task}; leave it out")


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="A split of the run's own data (val, test, ...), or a file: text for a language "
            "model, SOURCE,TARGET (two line-aligned files) for a translation run. May be given "
            "again; default: the run's own test sets, or validation text.",
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(
            "--length",
            min=1,
            help="Tokens of a window or sequence; may be given again, and be more than in "
            "training where the positions allow it. Not for translation.",
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
    """Score a run on any data.

    A language model: loss, bits a byte and perplexity of any text. A synthetic task: right answers.
    A translation run: BLEU, chrF, loss, and alignments where gold is given.
    """
    of_translation = {
        "--gold": gold,
        "--gold-index": gold_index,
        "--beam": beam,
        "--length-penalty": length_penalty,
        "--moses": moses,
        "--output": output,
        "--weights averaged": weights if weights == Weights.averaged else None,
    }

    def act() -> None:
        from attnkit import evaluation, text_evaluation
        from attnkit.trained_run import load_run, task_of

        task = task_of(run)
        if task != "translation":
            _check_unused(task, of_translation)
            best = weights == Weights.best
            trained = load_run(run, best=best, trust_plugins=trust_plugins)
            longest = text_evaluation.trained_on(trained)
            for found in text_evaluation.measure(trained, data or [], length or []):
                text_evaluation.show(found, longest)
            return
        _check_unused(task, {"--length": length})
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
