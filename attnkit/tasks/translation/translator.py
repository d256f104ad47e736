"""A trained translation run, ready to use: recipe, tokenizers and model. Loads no Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn import functional as F

from attnkit.attention.maps import attention_maps
from attnkit.attention_page.figure import Panel, draw_file
from attnkit.attention_page.text_maps import TextMaps
from attnkit.data.alignments import words
from attnkit.data.pair_batch import (
    IGNORED,
    ROW_NOTE,
    TranslationBatch,
    padded,
    pair_reading,
    pair_texts,
)
from attnkit.data.pair_batches import PairValBatches
from attnkit.data.pair_store import PairStore, pair_store
from attnkit.data.pairs.base import Pair
from attnkit.data.reading import Reading
from attnkit.data.tokenizer_base import Tokenizer, unknown_in
from attnkit.errors import DataError
from attnkit.models.beam_search import Search
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.tasks.trained_run import TrainedRun, Weights, load_run
from attnkit.tasks.translating import decoded_line, translate_ids
from attnkit.tasks.translation import alignment
from attnkit.tensorboard.attention_record import layer_map

TOGETHER = 256
"""Number of lines that are translated at once, in batches of similar length."""


@dataclass(frozen=True)
class Translation:
    """One translation of a line.

    Attributes:
        text: the translation.
        score: log-probability divided by the length penalty, in nats.
        ended: False if it was cut at the maximum length.
    """

    text: str
    score: float
    ended: bool


@dataclass(frozen=True)
class Line:
    """A line of input with its translations.

    Attributes:
        number: number of the line, from 1.
        source: the line.
        translations: the best first; a blank line has one, which is empty.
        warnings: remarks for the reader, such as that the line was cut.
    """

    number: int
    source: str
    translations: list[Translation]
    warnings: list[str]


@dataclass(frozen=True, repr=False)
class Translator(TrainedRun):
    """A trained translation run.

    Attributes:
        tokenizers: tokenizers of source and target.
    """

    model: EncoderDecoder
    tokenizers: tuple[Tokenizer, Tokenizer]

    evaluation_options: ClassVar[tuple[str, ...]] = (
        "--gold",
        "--gold-form",
        "--gold-index",
        "--beam",
        "--length-penalty",
        "--moses",
        "--output",
    )

    @property
    def ends(self) -> tuple[int, int]:
        """The end tokens of source and target."""
        return self.tokenizers[0].end_of_document_id, self.tokenizers[1].end_of_document_id

    def search(self, **options: Any) -> Search:
        """Returns the recipe's search with other options (None: unchanged)."""
        own = self.recipe.definition.search
        found = {"beam": own.beam, "length_penalty": own.length_penalty}
        return Search(**(found | {k: v for k, v in options.items() if v is not None}))

    def translate(
        self, lines: Sequence[str], search: Search | None = None, *, first_number: int = 1
    ) -> Iterator[Line]:
        """Translates lines, in their order.

        Blank lines stay blank. A line that is longer than the model's longest sequence is cut, with
        a warning.

        Args:
            lines: the lines.
            search: options of the search; None: those of the recipe.
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
        pad = partial(padded, end=self.ends[0])
        best = translate_ids(self.model, [rows[i] for i in written], pad, self.ends[1], search)
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
            found.append(f"cut: it has {num_tokens} tokens, but the model reads at most {room}")
        if unknown := unknown_in(self.tokenizers[0], line):
            found.append(f"the vocabulary lacks {', '.join(map(repr, unknown))}")
        return found

    def links(self, source: str, target: str, place: alignment.Place) -> list[tuple[int, int]]:
        """Returns links of source word and target word by the cross-attention at a place. Words are
        separated by white space and counted from 0.
        """
        found = alignment.cross_links(self.model, self.tokenizers, spaced(source, target))
        return sorted(found[place])

    def cross_map(
        self, source: str, target: str, place: alignment.Place
    ) -> tuple[np.ndarray, list[str], list[str]]:
        """Returns the cross-attention (T, S) of a pair at a place, the target tokens that its rows
        predict, and the source tokens of its columns.
        """
        store = self.store([Pair(source, target)])
        batch = store.batch(np.array([0]))
        maps = [m for m in attention_maps(self.model, batch) if m.role == "cross"]
        heads = maps[place.layer].weights[0]
        weights = heads.mean(dim=0) if place.head == alignment.MEAN else heads[place.head]
        texts = pair_texts(batch, self.tokenizers)
        return weights.numpy(), texts.predicts, texts.source

    def draw(self, source: str, target: str, place: alignment.Place, file: Path) -> None:
        """Draws the map of `cross_map`.

        Args:
            source: the sentence.
            target: its translation.
            place: layer and head.
            file: its name ends in .png, .svg or .pdf.

        Raises:
            DataError: if it cannot be drawn or written.
        """
        weights, queries, keys = self.cross_map(source, target, place)
        row = [Panel(layer_map(f"L{place.layer}", weights[None]), 0)]
        subtitle = f"cross-attention, {place}: the sources of each target token"
        try:
            file.write_bytes(
                draw_file(file.suffix, [row], queries, keys, title=self.title, subtitle=subtitle)
            )
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error

    def attention(self, text: str) -> TextMaps:
        """Returns the exact maps of encoder, decoder, and cross-attention.

        Args:
            text: a sentence, which the run translates; or `sentence ||| translation`.

        Raises:
            DataError: if a side is empty.
        """
        batch, notes = self._pair(text, "--text")
        texts = pair_texts(batch, self.tokenizers)
        return self.maps_of(
            batch,
            texts.predicts,
            texts.source,
            note=ROW_NOTE,
            notes=notes,
            site_tokens=texts.by_site,
        )

    def reading(self, text: str, option: str = "--text") -> Reading:
        batch, notes = self._pair(text, option)
        texts = pair_texts(batch, self.tokenizers)
        return pair_reading(batch, texts, self.tokenizers[1].token_text, notes)

    def _pair(self, text: str, option: str) -> tuple[TranslationBatch, list[str]]:
        """Returns a sentence and its translation as a batch, and remarks."""
        source, bar, target = (part.strip() for part in text.partition("|||"))
        if not source or (bar and not target):
            raise DataError(f"{option} needs a sentence, or `sentence ||| translation`")
        notes = []
        if not bar:
            (line,) = self.translate([source])
            target = line.translations[0].text
            notes = [*line.warnings, f"translated: {target}"]
        return self.store([Pair(source, target)]).batch(np.array([0])), notes

    def place(self, layer: int | None = None, head: int | None = None) -> alignment.Place:
        """Returns the place for alignments: by default the mean of the heads of the second to last
        layer, which is the safest choice without gold alignments.

        Raises:
            ValueError: if the model has no such layer or head.
        """
        layers = self.model.decoder.layers
        layer = max(len(layers) - 2, 0) if layer is None else layer
        if not 0 <= layer < len(layers):
            raise ValueError(f"layer must be from 0 to {len(layers) - 1}, got {layer}")
        cross = layers[layer].cross_attention
        assert cross is not None
        heads = cross.num_heads
        if head is not None and not 0 <= head < heads:
            raise ValueError(f"head must be from 0 to {heads - 1}, got {head}")
        return alignment.Place(layer, alignment.MEAN if head is None else head, "predicting")

    def store(self, pairs: Sequence[Pair]) -> PairStore:
        """Returns pairs as the model reads them; none is dropped, long ones are truncated."""
        return pair_store(
            pairs,
            self.tokenizers,
            split="evaluated",
            max_seq_len=self.model.max_seq_len,
            max_ratio=None,
            keep_all=True,
        )

    def evaluate(
        self,
        data: Sequence[str] = (),
        *,
        gold: Path | None = None,
        gold_form: Literal["pharaoh", "naacl"] = "pharaoh",
        gold_index: int | None = None,
        beam: int | None = None,
        length_penalty: float | None = None,
        moses: str | None = None,
        output: Path | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Yields tables of BLEU, chrF and loss, with their signatures, and of alignments.

        Args:
            data: splits of the run's data, or `SOURCE,TARGET` files; empty: its test splits.
            gold: gold word alignments of the single pair of files.
            gold_form: format of the alignments.
            gold_index: number of the first word in them, required with `gold`.
            beam: number of hypotheses; None: that of the recipe.
            length_penalty: length penalty of the search; None: that of the recipe.
            moses: language of Moses' tokenizer, for BLEU over its lowercased output.
            output: folder for the translations.
            options: none.
        """
        from attnkit.tasks.translation import evaluation
        from attnkit.tasks.translation.scores import moses_tokenizer

        # Refuse impossible options before translating anything.
        tokenize = None if moses is None else moses_tokenizer(moses)
        search = self.search(beam=beam, length_penalty=length_penalty)
        sets = evaluation.test_sets(self, data, gold, form=gold_form, first_index=gold_index)
        for one in sets:
            yield from evaluation.shown(evaluation.evaluate(self, one, search, tokenize, output))

    @torch.no_grad()
    def loss(self, store: PairStore) -> float:
        """Returns the mean cross-entropy of the references, in nats per target token."""
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
    """Returns a pair whose words are separated by white space, as in Pharaoh's format."""
    return alignment.Sentence(
        source,
        target,
        words(source, split_on_spaces=True),
        words(target, split_on_spaces=True),
    )


def load_translator(
    directory: str | Path, weights: Weights | None = None, *, trust_plugins: bool = False
) -> Translator:
    """Loads a translation run, as `load_run` does.

    Args:
        directory: `runs/<recipe>/<variant>/seed<k>`, or a `.safetensors` file.
        weights: which weights; None: the averaged ones if they exist, otherwise the last.
        trust_plugins: as for `load_run`.

    Raises:
        RunDirectoryError: if it is a run of another task; further errors as for `load_run`.
    """
    run = load_run(directory, weights=weights, trust_plugins=trust_plugins)
    if not isinstance(run, Translator):
        run.refuse("does not translate")
    return run
