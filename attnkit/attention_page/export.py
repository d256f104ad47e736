"""`attnkit attention`: takes the maps of a run on a text, and writes them to files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from attnkit.attention.maps import attention_maps
from attnkit.attention_page.page import page
from attnkit.data.cache import atomic_write, check_outs
from attnkit.data.errors import DataError
from attnkit.models.language_model import LanguageModel
from attnkit.run_directory import RunDirectoryError
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.images import contact_sheet
from attnkit.tensorboard.records import records_of
from attnkit.trained_run import TrainedRun, load_run

SUFFIXES = (".html", ".png", ".npz")


@dataclass(frozen=True)
class Exported:
    """What was written, and what the person should know.

    Attributes:
        files: in the order in which they were named.
        notes: words on what was cut, or read as something else.
    """

    files: list[Path]
    notes: list[str]


def export(
    run: Path, text: str, outs: Sequence[Path], *, best: bool = False, overwrite: bool = False
) -> Exported:
    """Writes the attention of a run on a text.

    Args:
        run: its directory.
        text: what the model reads.
        outs: files; `.html`: a page for a browser, `.png`: a picture, `.npz`: numbers.
        best: take the checkpoint with the lowest validation loss, not the last one.
        overwrite: replace files that are there.

    Raises:
        DataError: if a file's kind is unknown, a file is there already, or the text has no token.
        RunDirectoryError: if the directory holds no run that models language.
    """
    check_outs(outs, SUFFIXES, overwrite=overwrite)
    trained = load_run(run, best=best)
    records, notes = maps_of_text(trained, text, example=run.name)
    title = f"{trained.recipe.name} / {trained.recipe.variant} / {run.name}"
    for out in outs:
        _WRITERS[out.suffix](out, records, title)
    return Exported(list(outs), notes)


def maps_of_text(
    trained: TrainedRun, text: str, *, example: str = "text"
) -> tuple[list[AttentionRecord], list[str]]:
    """The maps of all layers of a language model on a text, and words on what was cut.

    Raises:
        DataError: if the text has no token.
        RunDirectoryError: if the run is no language model, or has no attention.
    """
    model, tokenizer = trained.model, trained.tokenizer
    if not isinstance(model, LanguageModel):
        raise RunDirectoryError("this run is no language model; its text alone is no input")
    if not model.layers:
        raise RunDirectoryError("this run has no layers, so it has no attention to show")
    notes = []
    if unknown := trained.unknown_in(text):
        notes.append(f"the run's vocabulary lacks {', '.join(map(repr, unknown))}")
    ids = tokenizer.encode(text).ids
    if not ids:
        raise DataError("--text is empty; give it at least one character")
    if len(ids) > model.max_seq_len:
        notes.append(f"{len(ids)} tokens; the model reads the first {model.max_seq_len}")
        ids = ids[: model.max_seq_len]
    tokens = torch.tensor([ids])
    maps = attention_maps(model, lambda: model(tokens, torch.zeros_like(tokens)))
    words = [tokenizer.token_text(i) for i in ids]
    return records_of(maps, words, words, example=example), notes


def _write_page(out: Path, records: Sequence[AttentionRecord], title: str) -> None:
    _put(out, page(records, title).encode())


def _write_numbers(out: Path, records: Sequence[AttentionRecord], title: str) -> None:
    arrays = {}
    for record in records:
        arrays[f"{record.site}/query_tokens"] = np.array(record.query_tokens)
        arrays[f"{record.site}/key_tokens"] = np.array(record.key_tokens)
        for layer in record.layers:
            arrays[f"{record.site}/{layer.name}"] = layer.weights
            if layer.allowed is not None:
                arrays[f"{record.site}/{layer.name}/allowed"] = layer.allowed
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    _put(out, content.getvalue())


def _write_picture(out: Path, records: Sequence[AttentionRecord], title: str) -> None:
    for record in records:
        own = out if len(records) == 1 else out.with_stem(f"{out.stem}-{record.site}")
        _put(own, contact_sheet(record, None).png)


def _put(out: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with atomic_write(out) as file:
        file.write(content)


_WRITERS: dict[str, Callable[[Path, Sequence[AttentionRecord], str], None]] = {
    ".html": _write_page,
    ".png": _write_picture,
    ".npz": _write_numbers,
}
