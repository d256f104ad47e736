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
from attnkit.data.pair_batch import ROW_NOTE, pair_texts
from attnkit.data.pairs.base import Pair
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import load_recipe
from attnkit.run_directory import RunDirectoryError, recipe_of
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.images import contact_sheet
from attnkit.tensorboard.records import records_of
from attnkit.trained_run import TrainedRun, load_run
from attnkit.translator import Translator, load_translator

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
        text: what the model reads; for a translation run a sentence, or `sentence |||
            translation`.
        outs: files; `.html`: a page for a browser, `.png`: a picture, `.npz`: numbers.
        best: take the checkpoint with the lowest validation loss, not the last one.
        overwrite: replace files that are there.

    Raises:
        DataError: if a file's kind is unknown, a file is there already, or the text has no token.
        RunDirectoryError: if the directory holds no run, or one without attention.
    """
    check_outs(outs, SUFFIXES, overwrite=overwrite)
    if run.is_dir() and load_recipe(recipe_of(run)).task == "translation":
        trained = load_translator(run, "best" if best else None)
        records, notes = maps_of_pair(trained, text, example=run.name)
    else:
        trained = load_run(run, best=best)
        records, notes = maps_of_text(trained, text, example=run.name)
    title = f"{trained.recipe.name} / {trained.recipe.variant} / {run.name}"
    contents = {
        file: content
        for out in outs
        for file, content in _WRITERS[out.suffix](out, records, title).items()
    }
    check_outs(list(contents), SUFFIXES, overwrite=overwrite)  # pictures have names of their own
    for file, content in contents.items():
        with atomic_write(file) as opened:
            opened.write(content)
    return Exported(list(contents), notes)


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
    maps = attention_maps(model, (tokens, torch.zeros_like(tokens)))
    words = [tokenizer.token_text(i) for i in ids]
    return records_of(maps, words, words, example=example), notes


def maps_of_pair(
    trained: Translator, text: str, *, example: str = "text"
) -> tuple[list[AttentionRecord], list[str]]:
    """The maps of all layers of a translation model, of encoder, decoder, and from one to the
    other.

    Args:
        trained: the run.
        text: a sentence, which the run translates; or `sentence ||| translation`.
        example: name of the example.

    Raises:
        DataError: if a side is empty.
    """
    source, bar, target = (part.strip() for part in text.partition("|||"))
    if not source or (bar and not target):
        raise DataError("--text needs a sentence, or `sentence ||| translation`")
    notes = []
    if not bar:
        (line,) = trained.translate([source])
        target = line.translations[0].text
        notes = [*line.warnings, f"translated: {target}"]
    batch = trained.store([Pair(source, target)]).batch(np.array([0]))
    texts = pair_texts(batch, trained.tokenizers)
    records = records_of(
        attention_maps(trained.model, batch),
        texts.predicts,
        texts.source,
        example=example,
        note=ROW_NOTE,
        site_tokens=texts.by_site,
    )
    return records, notes


def _as_page(out: Path, records: Sequence[AttentionRecord], title: str) -> dict[Path, bytes]:
    return {out: page(records, title).encode()}


def _as_numbers(out: Path, records: Sequence[AttentionRecord], title: str) -> dict[Path, bytes]:
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
    return {out: content.getvalue()}


def _as_pictures(out: Path, records: Sequence[AttentionRecord], title: str) -> dict[Path, bytes]:
    """One picture a site; where there are several, the site stands in the file's name."""
    several = len(records) > 1
    return {
        out.with_stem(f"{out.stem}-{record.site}") if several else out: contact_sheet(
            record, None
        ).png
        for record in records
    }


_WRITERS: dict[str, Callable[[Path, Sequence[AttentionRecord], str], dict[Path, bytes]]] = {
    ".html": _as_page,
    ".png": _as_pictures,
    ".npz": _as_numbers,
}
"""What a kind of file holds: the names of the files, and their bytes."""
