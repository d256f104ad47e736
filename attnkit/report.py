"""What a person reads when a run has ended: its numbers, a sample, where it lies."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from attnkit.experiment import Result

console = Console(highlight=False, soft_wrap=True)


def show_result(result: Result) -> None:
    """Prints how a run ended: its numbers, a sample, where it lies, how to look at it."""
    record = result.record
    honest = record.get("loss_is_language_modeling", True)
    table = _NUMBERS[record["task"]](result)
    table.add_section()
    table.add_row("parameters", f"{record['parameters']:,}")
    table.add_row("steps", f"{record['steps']:,}")
    table.add_row("training time", f"{record['seconds']:.0f} s")
    if compiling := record.get("compile_seconds"):
        table.add_row("  of it compiling", f"{compiling:.0f} s")
    table.add_row("tokens a second", f"{record['tokens_per_second']:,.0f}")
    table.add_row("precision, device", f"{record['precision']}, {record['device']}")
    console.print(table)
    if not honest:
        influence = record["later_influence"]
        console.print(
            "[bold]This is not a language-modeling loss:[/] each prediction can see the token that "
            "it predicts (changing one later token moved an earlier prediction by "
            f"{influence['change']:.2g} standard deviations). Do not compare it with a masked "
            "model's."
        )
    console.print("[bold]sample[/]")
    console.print(Text(result.sample.strip("\n")))
    directory = shlex.quote(str(result.directory))
    # A run may have been moved, or be named by less than three parts of its path.
    above = result.directory.absolute().parents
    root = above[min(1, len(above) - 1)] if above else result.directory
    shown = result.directory.parents[1] if len(result.directory.parts) > 2 else root
    example = shlex.quote(result.example)
    use = {
        "language_modeling": f"let it talk  attnkit generate {directory} --prompt {example}",
        "translation": f"translate    attnkit translate {directory} {example}",
        "synthetic": f"its maps     attnkit attention {directory} --text {example}",
    }
    for line in (
        f"\nrun          {result.directory}",
        f"look at it   tensorboard --logdir {shlex.quote(str(shown))}",
        use[record["task"]],
    ):
        console.print(line, markup=False)


def _validated_on(result: Result) -> str:
    """Which part of the validation split the numbers are from."""
    part, share = result.record["validation_part"], result.record["validation_share"]
    some = "whole" if share == 1 else f"{share:.1%} of the"
    if part == "all":
        return f"{some} validation split"
    half = f"{part.replace('_', ' ')} of validation"
    return half if share == 1 else f"{share:.1%} of the {half}"


def _text_numbers(result: Result) -> Table:
    """A language model's loss, beside the n-gram floors."""
    table = numbers_table(_validated_on(result))
    honest = result.record["loss_is_language_modeling"]
    table.add_row(
        "loss, nats a token" if honest else "loss (sees the future)",
        f"{result.metrics['loss']:.4f}",
    )
    if (bits := result.metrics.get("bits_per_byte")) is not None:  # tokens alone have no bytes
        table.add_row("bits a byte", f"{bits:.4f}")
    table.add_row("perplexity", f"{result.metrics['perplexity']:.3f}")
    _add_unknown(table, result)
    for order, floor in result.floors.items():
        better = result.metrics["loss"] < floor
        table.add_row(
            f"{order}-gram floor, nats a token", f"{floor:.4f}", style="" if better else "dim"
        )
    return table


def _add_unknown(table: Table, result: Result) -> None:
    """A line for the tokens that the vocabulary does not have, if there are any: a loss counts each
    as one, whatever it stands for.
    """
    if share := result.record["unknown_share"]:
        table.add_row("unknown tokens", f"{share:.2%}")


def _translation_numbers(result: Result) -> Table:
    """The validation loss, then the scores of each test set."""
    table = numbers_table(_validated_on(result))
    metrics = result.metrics
    table.add_row("loss, nats a token", f"{metrics['loss']:.4f}")
    table.add_row("perplexity", f"{metrics['perplexity']:.3f}")
    _add_unknown(table, result)
    table.add_row("token accuracy", f"{metrics['token_accuracy']:.1%}")
    words = {
        "bleu": ("BLEU", "{:.2f}"),
        "chrf": ("chrF", "{:.2f}"),
        "exact_match": ("exact match", "{:.1f} %"),
        "alignment_error_rate_predicting_row": ("alignment error rate", "{:.3f}"),
        "alignment_error_rate_input_row": ("  by the input row", "{:.3f}"),
    }
    splits = [name.removeprefix("bleu_") for name in metrics if name.startswith("bleu_")]
    for split in splits:
        table.add_section()
        for name, (label, form) in words.items():
            value = metrics.get(f"{name}_{split}")
            if value is not None:
                table.add_row(f"{split}: {label}", form.format(value))
    return table


def _synthetic_numbers(result: Result) -> Table:
    """How many answers are right."""
    chosen_by = result.record["validation_part"] == "first_half"
    table = numbers_table("validation set" if chosen_by else "test set")
    metrics = result.metrics
    table.add_row("accuracy of the answers", f"{metrics['accuracy']:.2%}")
    table.add_row("whole sequences right", f"{metrics['exact_match']:.2%}")
    table.add_row("loss, nats an answer", f"{metrics['loss']:.4f}")
    for name, value in metrics.items():
        length = name.removeprefix("accuracy_length_")
        if length != name:
            table.add_row(f"accuracy at {length} tokens", f"{value:.2%}")
    return table


_NUMBERS = {
    "language_modeling": _text_numbers,
    "synthetic": _synthetic_numbers,
    "translation": _translation_numbers,
}


def numbers_table(title: str) -> Table:
    """A table of names, numbers and remarks."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column(title)
    table.add_column("", justify="right")
    table.add_column("", style="dim", overflow="fold")
    return table
