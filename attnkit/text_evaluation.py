"""Scores a language-model or synthetic run on any data and at any length that it can read. Loads no
lightning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from attnkit.data.sources.base import Source
from attnkit.data.sources.text import OneFile
from attnkit.data.split_parts import part_of
from attnkit.data.symbols import Symbols
from attnkit.data.synthetic.base import SyntheticSource
from attnkit.data.synthetic_batches import SyntheticEvalBatches, answer_sums, means
from attnkit.data.token_store import TokenStore, token_store
from attnkit.data.tokenizer_base import UNKNOWN, Tokenizer
from attnkit.data.windows import ValBatches
from attnkit.errors import DataError
from attnkit.hardware import default_device
from attnkit.models.influence import admitted, measure_later_influence, scored_positions
from attnkit.models.language_model import LanguageModel
from attnkit.registry import SOURCES, SYNTHETIC
from attnkit.report import console
from attnkit.trained_run import TrainedRun


@dataclass(frozen=True)
class Measured:
    """What came of one data set.

    Attributes:
        name: of the data.
        by_length: tokens of a window or sequence -> metric -> value, as in a run's result.
        unknown_share: share of the tokens that the vocabulary lacks.
        is_honest: the loss is one of a language model, or of answers.
    """

    name: str
    by_length: dict[int, dict[str, float]]
    unknown_share: float = 0.0
    is_honest: bool = True


def measure(run: TrainedRun, names: Sequence[str], lengths: Sequence[int]) -> Iterator[Measured]:
    """Scores a run; all that can be refused is refused before anything is computed.

    Args:
        run: of language modeling, or of a synthetic task.
        names: splits of the run's own data, or files; empty: validation text, or the test set.
        lengths: tokens of a window, or of a sequence; empty: those of the run.

    Raises:
        DataError: if there is no such data, it is too short, or the model cannot read so long.
    """
    own = [run.model.max_seq_len]
    if isinstance(run.tokenizer, Symbols):
        source: SyntheticSource = SYNTHETIC.build(run.recipe.data)
        own = list(dict.fromkeys((source.length, *source.test_lengths)))
        sets = [_sequences(run, source, name, lengths or own) for name in names or ["test"]]
    else:
        sets = [_windows(run, run.tokenizer, name, lengths or own) for name in names or ["val"]]
    for length in lengths:
        _check_reads(run.model, length)
    return (act() for act in sets)


def trained_on(run: TrainedRun) -> int:
    """Tokens of the longest window or sequence of a run's training."""
    if isinstance(run.tokenizer, Symbols):
        return SYNTHETIC.build(run.recipe.data).length
    return run.model.max_seq_len


def _check_reads(model: LanguageModel, length: int) -> None:
    """Makes sure that a model takes sequences of a length.

    Raises:
        DataError: if its positions, or a mechanism, end before.
    """
    longest = None if model.position is None else model.position.longest
    if longest is not None and length > longest:
        raise DataError(
            f"--length {length}: the run's positions were learnt for {longest} tokens and there "
            "are no others; train with model.position rotary, alibi, relative_bias, sinusoidal or "
            "none to read longer texts"
        )
    if length > model.max_seq_len:
        tokens = torch.zeros(1, length, dtype=torch.long)
        try:
            with torch.inference_mode():
                model(tokens, tokens)
        except (ValueError, IndexError, RuntimeError) as error:
            raise DataError(f"--length {length}: the model cannot read it: {error}") from error


def _windows(
    run: TrainedRun, tokenizer: Tokenizer, name: str, lengths: Sequence[int]
) -> Callable[[], Measured]:
    """The measurement of a text: windows that do not overlap, as at the end of training."""
    store = _store(run, tokenizer, name)
    for length in lengths:
        if store.counts.tokens <= length:
            raise DataError(
                f"{name} has {store.counts.tokens:,} tokens, and one window of {length:,} needs "
                f"{length + 1:,}; give it more text, or say --length {store.counts.tokens - 1}"
                if store.counts.tokens > 1
                else f"{name} has {store.counts.tokens} tokens; nothing in it can be predicted"
            )

    def act() -> Measured:
        found, honest = {}, admitted(run.model, measure_later_influence(run.model))
        for length in lengths:
            scored, is_masked = scored_positions(run.model, length)
            honest = honest and is_masked
            loss = _loss(run, tokenizer, store, length, scored)
            bits = store.bits_per_byte(loss)
            found[length] = {
                "loss": loss,
                **({} if bits is None else {"bits_per_byte": bits}),
                "perplexity": math.exp(min(loss, 700.0)),
            }
        return Measured(name, found, store.unknown_share, honest)

    return act


def _store(run: TrainedRun, tokenizer: Tokenizer, name: str) -> TokenStore:
    source: Source = SOURCES.build(run.recipe.data)
    if name in source.splits:
        part = run.recipe.validation.part if name == "val" else "all"
        return token_store(part_of(source, part), tokenizer, name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(
            f"--data {name}: there is no such file (seen from {Path.cwd()}), and the run's data "
            f"has no such split (there are: {', '.join(source.splits)})"
        )
    return token_store(OneFile(path), tokenizer, OneFile.splits[0])


def _loss(
    run: TrainedRun, tokenizer: Tokenizer, store: TokenStore, length: int, scored: list[int] | None
) -> float:
    """Mean loss in nats a token, of the predictions that are `scored`."""
    device = default_device()
    model = run.model.to(device)
    batches = ValBatches(
        store,
        batch_size=max(run.recipe.trainer.batch_size * model.max_seq_len // length, 1),
        max_seq_len=length,
        end_of_document_id=tokenizer.end_of_document_id if model.mask.needs_documents else None,
        max_tokens=None,
    )
    sums, count = [], 0
    with torch.inference_mode():
        for number in _told(len(batches), f"{length:,} tokens a window"):
            batch = batches[number]
            documents = None if batch.documents is None else batch.documents.to(device)
            logits, targets = model(batch.tokens.to(device), documents), batch.targets.to(device)
            if scored is not None:
                logits, targets = logits[:, scored], targets[:, scored]
            logits = logits.flatten(0, 1).float()
            sums.append(F.cross_entropy(logits, targets.flatten(), reduction="sum"))
            count += targets.numel()
    return float(torch.stack(sums).cpu().double().sum()) / count


def _sequences(
    run: TrainedRun, source: SyntheticSource, name: str, lengths: Sequence[int]
) -> Callable[[], Measured]:
    """The measurement of a synthetic task: the fixed sequences of each length."""
    if name not in ("val", "test"):
        raise DataError(f"--data {name}: a synthetic task has val and test, and reads no file")
    for length in lengths:
        if not source.allows(length):
            raise DataError(f"--length {length} does not fit the task: {source.needs}")
    sets = {
        length: SyntheticEvalBatches(
            source,
            name,  # pyright: ignore[reportArgumentType]
            lengths=(length,),
            count=source.num_eval,
            batch_size=run.recipe.trainer.batch_size,
        )
        for length in lengths
    }

    def act() -> Measured:
        device = default_device()
        model = run.model.to(device)
        found = {}
        with torch.inference_mode():
            for length, batches in sets.items():
                sums: list[Tensor] = []
                for number in _told(len(batches), f"{length:,} tokens a sequence"):
                    tokens, targets = (part.to(device) for part in batches[number])
                    sums.append(answer_sums(model(tokens, torch.zeros_like(tokens)), targets))
                found[length] = means(torch.stack(sums).cpu().double().sum(dim=0).tolist())
        return Measured(name, found)

    return act


def _told(count: int, label: str) -> Iterator[int]:
    """The numbers up to `count`, with a bar on a terminal."""
    screen = Console(stderr=True)
    yield from track(
        range(count), label, console=screen, transient=True, disable=not screen.is_terminal
    )


_COLUMNS: dict[str, tuple[str, Callable[[float], Any]]] = {
    "loss": ("loss, nats", "{:.4f}".format),
    "bits_per_byte": ("bits a byte", "{:.4f}".format),
    "perplexity": ("perplexity", "{:.3f}".format),
    "accuracy": ("accuracy", "{:.2%}".format),
    "exact_match": ("whole sequences right", "{:.2%}".format),
}


def show(found: Measured, trained_on: int) -> None:
    """Prints the numbers of a data set, a row for each length.

    Args:
        found: what was measured.
        trained_on: the longest sequence of training.
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
    console.print(table)
    if found.unknown_share:
        console.print(
            f"{found.unknown_share:.2%} of the tokens are {UNKNOWN}: one guess each, whatever they "
            "stand for; bits a byte include their spelling."
        )
    if not found.is_honest:
        console.print(
            "[bold]This is not a language-modeling loss:[/] predictions can see the tokens that "
            "they predict."
        )
