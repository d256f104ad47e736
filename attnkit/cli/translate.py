"""attnkit translate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from attnkit.cli.app import Debug, RunArgument, TrustPlugins, app, guarded


class Weights(StrEnum):
    """The weights of a run."""

    averaged = "averaged"
    last = "last"
    best = "best"


WeightsOption = Annotated[
    Weights | None,
    typer.Option(
        "--weights", help="Default: the averaged weights if the run has any, else the last."
    ),
]


@app.command()
def translate(
    run: RunArgument,
    sentences: Annotated[
        list[str] | None,
        typer.Argument(help="Sentences; default: lines of standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Translate the lines of a file (also .gz).")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, help="Beam size; default: the recipe's.")
    ] = None,
    n_best: Annotated[int, typer.Option(min=1, help="Translations per line.")] = 1,
    length_penalty: Annotated[
        float | None, typer.Option(min=0.0, help="0: none; default: the recipe's.")
    ] = None,
    alignments: Annotated[
        bool,
        typer.Option(
            "--alignments", help="Add aligned word pairs (source-target, 0-0 1-2) after a tab."
        ),
    ] = False,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Layer of the cross-attention, from 0.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=0, help="Head, from 0; default: the mean of all.")
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(
            "--attention", help="Draw the cross-attention of a single sentence (.png, .svg, .pdf)."
        ),
    ] = None,
    weights: WeightsOption = None,
    trust_plugins: TrustPlugins = False,
    debug: Debug = False,
) -> None:
    """Translate sentences, a file or standard input, line by line.

    With --n-best N each line gives up to N lines: score, tab, translation.
    """

    def act() -> None:
        from attnkit.tasks.translation.translator import load_translator

        if sentences and file is not None:
            _refuse("give sentences or --file, not both")
        if attention is not None:
            if file is not None or not sentences or len(sentences) != 1 or not sentences[0].strip():
                _refuse("--attention draws one sentence; give exactly one as an argument")
            if attention.suffix.lower() not in (".png", ".svg", ".pdf"):
                _refuse(f"--attention {attention}: the name must end in .png, .svg or .pdf")
            if not attention.parent.is_dir():
                _refuse(f"--attention {attention}: the folder {attention.parent} does not exist")
        if beam is not None and n_best > beam:
            _refuse(f"--n-best {n_best} is more than --beam {beam}")
        checkpoint = None if weights is None else weights.value
        translator = load_translator(run, checkpoint, trust_plugins=trust_plugins)
        beam_size = beam
        if beam is None and n_best > translator.search().beam:
            beam_size = n_best
        search = translator.search(beam=beam_size, length_penalty=length_penalty, n_best=n_best)
        try:
            place = translator.place(layer, head)
        except ValueError as error:
            _refuse(str(error))
        number = 1
        for lines in _batches_of_lines(sentences, file):
            for line in translator.translate(lines, search, first_number=number):
                for warning in line.warnings:
                    typer.echo(f"line {line.number}: {warning}", err=True)
                for best in line.translations:
                    output = f"{best.score:.4f}\t{best.text}" if n_best > 1 else best.text
                    if alignments:
                        links = translator.links(line.source.strip(), best.text, place)
                        output += "\t" + " ".join(f"{i}-{j}" for i, j in links)
                    typer.echo(output)
                sys.stdout.flush()
                if attention is not None:
                    best = line.translations[0].text
                    translator.draw(line.source.strip(), best, place, attention)
            number += len(lines)

    guarded(act, debug)


def _refuse(message: str) -> NoReturn:
    """Raises an error about the command's arguments."""
    from attnkit.errors import DataError

    raise DataError(message)


def _batches_of_lines(sentences: list[str] | None, file: Path | None) -> Iterator[list[str]]:
    """Yields the input; from standard input the lines available so far, without waiting for more.

    Raises:
        DataError: if it is not UTF-8; names the line.
    """
    from attnkit.data.line_files import decoded, read_lines

    if sentences:
        yield sentences
        return
    if file is not None:
        yield read_lines(file)
        return
    number, partial = 1, b""
    read = sys.stdin.buffer.read1  # pyright: ignore[reportAttributeAccessIssue]
    while chunk := read(1 << 16):  # waits for the first byte only
        *complete, partial = (partial + chunk).split(b"\n")
        if complete:
            yield decoded("standard input", complete, number)
            number += len(complete)
    if partial:
        yield decoded("standard input", [partial], number)
