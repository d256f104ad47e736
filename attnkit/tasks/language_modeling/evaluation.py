"""Scores a language model on any text, at any length that it can read. Loads no Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from attnkit.console import progress_bar
from attnkit.data.sources.base import Source
from attnkit.data.sources.text import OneFile
from attnkit.data.split_parts import part_of
from attnkit.data.token_store import TokenStore, token_store
from attnkit.data.windows import ValBatches
from attnkit.errors import DataError
from attnkit.hardware.devices import default_device
from attnkit.models.influence import allowed_by_masks, measure_later_influence, scored_positions
from attnkit.registry import SOURCES
from attnkit.tasks.text_evaluation import Measured, check_reads

if TYPE_CHECKING:
    from attnkit.tasks.language_modeling.trained import TrainedLanguageModel


def measure(
    run: TrainedLanguageModel, names: Sequence[str], lengths: Sequence[int]
) -> Iterator[Measured]:
    """Scores a run; reports all errors before it computes anything.

    Args:
        run: the language model.
        names: splits of the run's own data, or files; empty: validation text.
        lengths: tokens of a window; empty: that of the run.

    Raises:
        DataError: if the data does not exist or is too short, or the model cannot read this length.
    """
    sets = [_windows(run, name, lengths or [run.model.max_seq_len]) for name in names or ["val"]]
    for length in lengths:
        check_reads(run.model, length)
    return (act() for act in sets)


def _windows(
    run: TrainedLanguageModel, name: str, lengths: Sequence[int]
) -> Callable[[], Measured]:
    """Returns a function that scores a text in windows without overlap, as after training."""
    store = _store(run, name)
    for length in lengths:
        if store.counts.tokens <= length:
            raise DataError(
                f"{name} has {store.counts.tokens:,} tokens, but one window of {length:,} needs "
                f"{length + 1:,}; add text, or use --length {store.counts.tokens - 1}"
                if store.counts.tokens > 1
                else f"{name} has {store.counts.tokens} tokens; nothing in it can be predicted"
            )

    def act() -> Measured:
        found, honest = {}, allowed_by_masks(run.model, measure_later_influence(run.model))
        for length in lengths:
            scored, is_masked = scored_positions(run.model, length)
            honest = honest and is_masked
            loss = _loss(run, store, length, scored)
            bits = store.bits_per_byte(loss)
            found[length] = {
                "loss": loss,
                **({} if bits is None else {"bits_per_byte": bits}),
                "perplexity": math.exp(min(loss, 700.0)),
            }
        return Measured(name, found, store.unknown_share, honest)

    return act


def _store(run: TrainedLanguageModel, name: str) -> TokenStore:
    source: Source = SOURCES.build(run.recipe.data)
    if name in source.splits:
        part = run.recipe.validation.part if name == "val" else "all"
        return token_store(part_of(source, part), run.tokenizer, name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(
            f"--data {name}: there is no such file (seen from {Path.cwd()}), and the run's data "
            f"has no such split (there are: {', '.join(source.splits)})"
        )
    return token_store(OneFile(path), run.tokenizer, OneFile.splits[0])


def _loss(
    run: TrainedLanguageModel, store: TokenStore, length: int, scored: list[int] | None
) -> float:
    """Returns the mean loss of the `scored` predictions, in nats per token."""
    device = default_device()
    model = run.model.to(device)
    batches = ValBatches(
        store,
        batch_size=max(run.recipe.trainer.batch_size * model.max_seq_len // length, 1),
        max_seq_len=length,
        end_of_document_id=run.tokenizer.end_of_document_id if model.needs_documents else None,
        max_tokens=None,
    )
    sums, count = [], 0
    with torch.inference_mode():
        for number in progress_bar(range(len(batches)), f"{length:,} tokens a window"):
            batch = batches[number]
            documents = None if batch.documents is None else batch.documents.to(device)
            logits, targets = model(batch.tokens.to(device), documents), batch.targets.to(device)
            if scored is not None:
                logits, targets = logits[:, scored], targets[:, scored]
            logits = logits.flatten(0, 1).float()
            sums.append(F.cross_entropy(logits, targets.flatten(), reduction="sum"))
            count += targets.numel()
    return float(torch.stack(sums).cpu().double().sum()) / count
