"""Metrics of runs whose model reads one sequence of tokens, and their table. Loads no Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table

from attnkit.data.tokenizer_base import UNKNOWN
from attnkit.errors import DataError
from attnkit.models.language_model import LanguageModel


@dataclass(frozen=True)
class Measured:
    """The metrics of one data set.

    Attributes:
        name: name of the data.
        by_length: tokens of a window or sequence -> metric -> value, as in a run's result.
        unknown_share: share of the tokens that the vocabulary lacks.
        is_honest: False if predictions can see the tokens that they predict.
    """

    name: str
    by_length: dict[int, dict[str, float]]
    unknown_share: float = 0.0
    is_honest: bool = True


def check_reads(model: LanguageModel, length: int) -> None:
    """Checks that a model can read sequences of a length.

    Raises:
        DataError: if its positions or a mechanism do not allow it.
    """
    longest = None if model.position is None else model.position.longest
    if longest is not None and length > longest:
        raise DataError(
            f"--length {length}: the run's positions were learnt for {longest} tokens only; train "
            "with model.position rotary, alibi, relative_bias, sinusoidal or none to read longer "
            "texts"
        )
    if length > model.max_seq_len:
        tokens = torch.zeros(1, length, dtype=torch.long)
        try:
            with torch.inference_mode():
                model(tokens, tokens)
        except (ValueError, IndexError, RuntimeError) as error:
            raise DataError(f"--length {length}: the model cannot read it: {error}") from error


_COLUMNS: dict[str, tuple[str, Callable[[float], Any]]] = {
    "loss": ("loss, nats", "{:.4f}".format),
    "bits_per_byte": ("bits per byte", "{:.4f}".format),
    "perplexity": ("perplexity", "{:.3f}".format),
    "accuracy": ("accuracy", "{:.2%}".format),
    "exact_match": ("whole sequences right", "{:.2%}".format),
}


def shown(found: Measured, trained_on: int) -> Iterator[Table | str]:
    """Yields a table with a row per length, and remarks.

    Args:
        found: the metrics.
        trained_on: length of the longest training sequence.
    """
    table = Table(
        title=found.name,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        header_style="dim",
        pad_edge=False,
    )
    table.add_column("tokens", justify="right")
    metrics = next(iter(found.by_length.values()))
    for name in metrics:
        table.add_column(_COLUMNS[name][0], justify="right")
    for length, values in found.by_length.items():
        beyond = " (beyond training)" if length > trained_on else ""
        words = [_COLUMNS[name][1](value) for name, value in values.items()]
        table.add_row(f"{length:,}{beyond}", *words)
    yield table
    if found.unknown_share:
        yield (
            f"{found.unknown_share:.2%} of the tokens are {UNKNOWN}: one guess each, whatever they "
            "stand for; bits per byte include their spelling."
        )
    if not found.is_honest:
        yield (
            "[bold]This is not a language-modeling loss:[/] predictions can see the tokens that "
            "they predict."
        )
