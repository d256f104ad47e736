"""A trained translation run, ready to use: recipe, tokenizers and model. Loads no lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from attnkit import run_directory
from attnkit.attention.maps import attention_maps
from attnkit.attention_page.text_maps import TextMaps
from attnkit.checkpoints.exported import SUFFIX
from attnkit.checkpoints.reading import read_checkpoint
from attnkit.data.alignments import words
from attnkit.data.pair_batch import IGNORED, ROW_NOTE, pair_texts
from attnkit.data.pair_batches import PairValBatches
from attnkit.data.pair_store import PairStore, pair_store
from attnkit.data.pairs.base import Pair
from attnkit.data.tokenizer_base import Tokenizer, unknown_in
from attnkit.data.translation import load_vocabularies
from attnkit.errors import DataError
from attnkit.models.beam_search import Search
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.plugins import StoredPlugins
from attnkit.recipe.stored import stored_recipe
from attnkit.run_directory import RunDirectoryError
from attnkit.tasks import cross_alignment as alignment
from attnkit.tasks.translating import decoded_line, translate_ids
from attnkit.tensorboard.records import mechanisms_of, records_of
from attnkit.trained_run import (
    Trained,
    TrainedRun,
    filled,
    home_of,
    load_run,
    model_weights,
    pack,
    read_weights,
    task_of,
    unpacked,
)

TOGETHER = 256
"""Lines that are translated at once, the longest beside each other; what follows waits for them."""

Checkpoint = Literal["averaged", "last", "best"]


@dataclass(frozen=True)
class Translation:
    """One translation of a line.

    Attributes:
        text: the translation.
        score: log-probability divided by the length penalty, in nats.
        ended: False if it was cut at the greatest length.
    """

    text: str
    score: float
    ended: bool


@dataclass(frozen=True)
class Line:
    """A line of input and what became of it.

    Attributes:
        number: from 1.
        source: the line.
        translations: the best first; a blank line has one, which is empty.
        warnings: what a person should know of it, such as that it was cut.
    """

    number: int
    source: str
    translations: list[Translation]
    warnings: list[str]


@dataclass(frozen=True, repr=False)
class Translator(Trained):
    """What a translation run left behind.

    Attributes:
        tokenizers: of source and target.
        model: with the trained weights, in evaluation mode, on the CPU.
    """

    tokenizers: tuple[Tokenizer, Tokenizer]
    model: EncoderDecoder

    @property
    def ends(self) -> tuple[int, int]:
        """The end tokens of source and target."""
        return self.tokenizers[0].end_of_document_id, self.tokenizers[1].end_of_document_id

    def search(self, **options: Any) -> Search:
        """The recipe's search, with some options changed (None leaves one as it is)."""
        own = self.recipe.translation
        found = {"beam": own.beam, "length_penalty": own.length_penalty}
        return Search(**(found | {k: v for k, v in options.items() if v is not None}))

    def translate(
        self, lines: Sequence[str], search: Search | None = None, *, first_number: int = 1
    ) -> Iterator[Line]:
        """Translates lines, in their order.

        Blank lines stay blank; a line that is longer than the model's longest sequence is cut, and
        says so.

        Args:
            lines: what is there to translate.
            search: how to search; None: as the recipe says.
            first_number: number of the first line.
        """
        search = search or self.search()
        for start in range(0, len(lines), TOGETHER):
            together = lines[start : start + TOGETHER]
            yield from self._translate(together, search, first_number + start)

    def _translate(self, lines: Sequence[str], search: Search, first_number: int) -> Iterator[Line]:
        room = self.model.max_seq_len - 1
        rows: list[np.ndarray] = []
        warnings: list[list[str]] = []
        for line in lines:
            ids = self.tokenizers[0].encode_batch([line.strip()])[0]
            warnings.append(self._warnings(line.strip(), len(ids)))
            rows.append(ids[:room].astype(np.int64))
        written = [i for i, row in enumerate(rows) if len(row)]
        best = translate_ids(self.model, [rows[i] for i in written], self.ends, search)
        found = dict(zip(written, best, strict=True))
        for i, line in enumerate(lines):
            translations = [
                Translation(decoded_line(self.tokenizers[1], one), one.score, one.ended)
                for one in found.get(i, [])
            ]
            yield Line(
                first_number + i, line, translations or [Translation("", 0.0, True)], warnings[i]
            )

    def _warnings(self, line: str, num_tokens: int) -> list[str]:
        room = self.model.max_seq_len - 1
        found = []
        if num_tokens > room:
            found.append(f"cut: it has {num_tokens} tokens, and the model reads {room} at most")
        if unknown := unknown_in(self.tokenizers[0], line):
            found.append(f"the vocabulary lacks {', '.join(map(repr, unknown))}")
        return found

    def links(self, source: str, target: str, place: alignment.Place) -> list[tuple[int, int]]:
        """Source word, target word, both from 0 and split at white space, as the cross-attention at
        a place has them.
        """
        found = alignment.cross_links(self.model, self.tokenizers, spaced(source, target))
        return sorted(found[place])

    def cross_map(
        self, source: str, target: str, place: alignment.Place
    ) -> tuple[np.ndarray, list[str], list[str]]:
        """The cross-attention (T, S) of a pair at a place, with the target tokens that its rows
        predict and the source tokens that its columns are.
        """
        store = self.store([Pair(source, target)])
        batch = store.batch(np.array([0]))
        maps = [m for m in attention_maps(self.model, batch) if m.role == "cross"]
        heads = maps[place.layer].weights[0]
        weights = heads.mean(dim=0) if place.head == alignment.MEAN else heads[place.head]
        texts = pair_texts(batch, self.tokenizers)
        return weights.numpy(), texts.predicts, texts.source

    def attention(self, text: str) -> TextMaps:
        """The exact maps of encoder, decoder, and from one to the other.

        Args:
            text: a sentence, which the run translates; or `sentence ||| translation`.

        Raises:
            DataError: if a side is empty.
        """
        source, bar, target = (part.strip() for part in text.partition("|||"))
        if not source or (bar and not target):
            raise DataError("--text needs a sentence, or `sentence ||| translation`")
        notes = []
        if not bar:
            (line,) = self.translate([source])
            target = line.translations[0].text
            notes = [*line.warnings, f"translated: {target}"]
        batch = self.store([Pair(source, target)]).batch(np.array([0]))
        texts = pair_texts(batch, self.tokenizers)
        maps = attention_maps(self.model, batch)
        records = records_of(
            maps,
            texts.predicts,
            texts.source,
            example="text",
            note=ROW_NOTE,
            site_tokens=texts.by_site,
        )
        return TextMaps(records, self.title, mechanisms_of(maps), notes)

    def place(self, layer: int | None = None, head: int | None = None) -> alignment.Place:
        """Where alignments are read: by default the mean of the heads of the last layer but one,
        which in a model without gold is the safest guess.

        Raises:
            ValueError: if the model has no such layer or head.
        """
        layers = self.model.decoder.layers
        layer = max(len(layers) - 2, 0) if layer is None else layer
        if not 0 <= layer < len(layers):
            raise ValueError(f"layer must be from 0 to {len(layers) - 1}, got {layer}")
        heads = layers[layer].cross_attention.num_heads
        if head is not None and not 0 <= head < heads:
            raise ValueError(f"head must be from 0 to {heads - 1}, got {head}")
        return alignment.Place(layer, alignment.MEAN if head is None else head, "predicting")

    def store(self, pairs: Sequence[Pair]) -> PairStore:
        """Pairs as the model reads them; nothing is dropped, what is too long is cut."""
        return pair_store(
            pairs,
            self.tokenizers,
            split="evaluated",
            max_seq_len=self.model.max_seq_len,
            max_ratio=None,
            keep_all=True,
        )

    @torch.no_grad()
    def loss(self, store: PairStore) -> float:
        """Mean cross-entropy of the references, in nats a target token."""
        total, count = 0.0, 0
        tokens = max(self.recipe.trainer.batch_tokens, self.model.max_seq_len)
        batches = PairValBatches(store, batch_tokens=tokens, max_tokens=None)
        for i in range(len(batches)):
            batch = batches[i]
            logits = self.model(batch.source, batch.source_keep, batch.target)
            predicted = batch.predicted.flatten()
            total += float(
                F.cross_entropy(
                    logits.flatten(0, 1), predicted, ignore_index=IGNORED, reduction="sum"
                )
            )
            count += batch.num_tokens
        return total / count


def spaced(source: str, target: str) -> alignment.Sentence:
    """A pair whose words are what stands between white space, as Pharaoh's form counts them."""
    return alignment.Sentence(
        source,
        target,
        words(source, split_on_spaces=True),
        words(target, split_on_spaces=True),
    )


def load_translator(
    directory: str | Path, checkpoint: Checkpoint | None = None, *, trust_plugins: bool = False
) -> Translator:
    """Loads a translation run from its directory, or from the file that `export_translator` made.

    Args:
        directory: `runs/<recipe>/<variant>/seed<k>`, or a `.safetensors` file.
        checkpoint: which weights; None: the averaged ones if there are any, else the last. A file
            has its own.
        trust_plugins: as for `load_run`.

    Raises:
        RunDirectoryError: if the directory holds no translation run.
        UntrustedPluginError: if its model needs plugins that this user has never run.
        CheckpointError: if its checkpoint is missing, damaged, of another model or vocabulary, or
            not plain data.
        DataError: if a tokenizer is missing or damaged.
    """
    directory = Path(directory)
    if directory.suffix == SUFFIX:
        with unpacked(directory) as (folder, weights, texts):
            plugins = StoredPlugins.of_texts(directory, texts, trust=trust_plugins)
            return _loaded(folder, weights, directory, plugins)
    run_directory.recipe_of(directory)
    folder = directory / run_directory.CHECKPOINTS
    if checkpoint is None:
        averaged = folder / run_directory.AVERAGED
        checkpoint = "averaged" if averaged.is_file() else "last"
    name = {
        "averaged": run_directory.AVERAGED,
        "last": run_directory.LAST,
        "best": run_directory.BEST,
    }[checkpoint]
    if checkpoint == "averaged":  # made of checkpoints, not one of the store's
        weights = model_weights(read_checkpoint(folder / name))
    else:
        weights = read_weights(folder / name)
    plugins = StoredPlugins.of_run(directory, trust=trust_plugins)
    return _loaded(directory, weights, folder / name, plugins)


def export_translator(
    directory: Path,
    target: Path,
    *,
    best: bool = False,
    overwrite: bool = False,
    trust_plugins: bool = False,
) -> Translator:
    """Writes the weights of a translation run alone, with its recipe and vocabularies, into a file.

    Args:
        directory: of the run.
        target: the file, which ends in `.safetensors`.
        best: take the checkpoint with the lowest validation loss; else what `load_translator`
            takes by itself.
        overwrite: replace a file that is there.
        trust_plugins: as for `load_run`.

    Returns:
        What `load_translator` will make of the file.

    Raises:
        RunDirectoryError: if the directory holds no translation run.
        CheckpointError: if its checkpoint is bad, or the file cannot be written.
    """
    checkpoint = "best" if best else None
    translator = load_translator(directory, checkpoint, trust_plugins=trust_plugins)
    pack(directory, translator.model, target, overwrite=overwrite)
    return translator


def _loaded(
    directory: Path, weights: dict[str, torch.Tensor], origin: Path, plugins: StoredPlugins
) -> Translator:
    """The run whose recipe and vocabularies lie in a directory; `origin` is named in errors."""
    recipe = stored_recipe(directory, plugins=plugins)
    if recipe.task != "translation":
        raise RunDirectoryError(
            f"{origin} is no translation run but one of {recipe.task}; `attnkit generate` lets "
            "a language model speak"
        )
    separate = recipe.target_tokenizer is not None
    tokenizers = load_vocabularies(directory, separate=separate)
    sizes = [tokenizers[1].vocab_size, *([tokenizers[0].vocab_size] if separate else [])]
    model = filled(lambda: EncoderDecoder(*sizes, **recipe.model), weights, origin)
    return Translator(recipe, home_of(directory, origin), tokenizers, model)


def load_any(
    directory: str | Path, *, best: bool = False, trust_plugins: bool = False
) -> TrainedRun | Translator:
    """Loads a finished run of any task; see `load_run` and `load_translator`.

    Args:
        directory: of the run, or a `.safetensors` file.
        best: take the checkpoint with the lowest validation loss.
        trust_plugins: as for `load_run`.
    """
    directory = Path(directory)
    if task_of(directory) == "translation":
        checkpoint = "best" if best else None
        return load_translator(directory, checkpoint, trust_plugins=trust_plugins)
    return load_run(directory, best=best, trust_plugins=trust_plugins)
