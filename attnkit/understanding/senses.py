"""How well a model separates the senses of a word: `attnkit senses`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from attnkit.data.sources.ambiguous_words import AmbiguousWords, Usage, of_word
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.models.language_model import LanguageModel
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tasks.text_run import TextRun
from attnkit.tasks.trained_run import TrainedRun
from attnkit.understanding.word_vectors import NEIGHBOURS, Separation, separation, word_vectors


@dataclass(frozen=True)
class Senses:
    """The senses of a word in a trained model.

    Attributes:
        title: of the run.
        word: the word.
        usages: N sentences with it.
        vectors: (L + 1, N, C) of the word, see `word_vectors`.
        layers: for each layer, from the embedding on, how well the vectors separate the senses.
        untrained: the same for the model before training.
        last_without: name -> separation of the last layer when the attention of some layers adds
            nothing.
    """

    title: str
    word: str
    usages: Sequence[Usage]
    vectors: np.ndarray
    layers: Sequence[Separation]
    untrained: Sequence[Separation]
    last_without: dict[str, Separation]

    @property
    def senses(self) -> list[str]:
        """Names of the senses."""
        return sorted({usage.sense for usage in self.usages})

    @property
    def separates_from(self) -> int | None:
        """First layer from which all purities are above chance; None: the last one is not."""
        first = None
        for layer, found in reversed(list(enumerate(self.layers))):
            if not found.is_above_chance:
                break
            first = layer
        return first


def usages_for(run: TrainedRun, file: Path | None) -> tuple[list[Usage], str]:
    """Returns sentences for a run, and their origin: those of a file, or else the validation
    sentences of its data, or else the built-in ones.

    Raises:
        DataError: if the file is missing or damaged.
    """
    if file is not None:
        return AmbiguousWords(file=file).usages(), str(file)
    recipe = run.recipe
    if recipe.data.name == "ambiguous_words":
        return AmbiguousWords(**recipe.data.options).usages("val"), "the run's validation split"
    return AmbiguousWords().usages(), "the built-in set"


def examine(run: TrainedRun, word: str, usages: Sequence[Usage], origin: str) -> Senses:
    """Measures how well each layer of a run separates the senses of a word.

    Args:
        run: of a task whose model reads a text.
        word: the word.
        usages: sentences with any words.
        origin: of the sentences, for messages.

    Raises:
        RunDirectoryError: if the run's model reads no text or has no layers.
        DataError: if the sentences are too few, or the model cannot read one.
    """
    model, tokenizer = _readers(run)
    found = of_word(usages, word, origin)
    senses = [usage.sense for usage in found]

    def by_layer(model: LanguageModel, without: Collection[int] = ()) -> tuple[Any, list]:
        vectors = word_vectors(model, tokenizer, found, without)
        return vectors, [separation(layer, senses) for layer in vectors]

    vectors, layers = by_layer(model)
    number = len(model.layers)
    knocked_out: dict[str, tuple[int, ...]] = (
        {f"layer {i + 1}": (i,) for i in range(number)} if number > 1 else {}
    )
    knocked_out["all layers"] = tuple(range(number))
    definition: Any = run.recipe.definition
    untrained = definition.build_model(
        run.recipe, *definition.model_sizes(tokenizer.vocab_size)
    ).eval()
    return Senses(
        run.title,
        word,
        found,
        vectors,
        layers,
        by_layer(untrained)[1],
        {name: by_layer(model, off)[1][-1] for name, off in knocked_out.items()},
    )


def _readers(run: TrainedRun) -> tuple[LanguageModel, Tokenizer]:
    if not isinstance(run, TextRun) or not isinstance(run.tokenizer, Tokenizer):
        raise RunDirectoryError(
            f"{run.origin} is a run of the task {run.recipe.task}, whose model does not "
            "read a single text; give a run of language_modeling or masked_language_modeling"
        )
    if not run.tokenizer.reads_text:
        raise RunDirectoryError(f"{run.origin}: the run's vocabulary has no text")
    if not run.model.layers:
        raise RunDirectoryError(f"{run.origin}: this run has no layers, so it has no attention")
    return run.model, run.tokenizer


def words_of(usages: Sequence[Usage]) -> list[str]:
    """Returns the different words of sentences, sorted."""
    return sorted({usage.word for usage in usages})


def shown(found: Senses, origin: str) -> Iterator[Any]:
    """Yields what a terminal prints about one word of one run."""
    counts = Counter(usage.sense for usage in found.usages)
    each = ", ".join(f"{sense} {counts[sense]}" for sense in found.senses)
    chance, upper = found.layers[-1].chance
    neighbours = min(NEIGHBOURS, min(counts.values()) - 1)
    about = f"{found.word!r} in {len(found.usages)} sentences of {origin} ({each})"
    yield escape(f"{found.title}: {about}")
    table = _table("layer", "purity", "95 %", "silhouette", "untrained")
    for number, (layer, before) in enumerate(zip(found.layers, found.untrained, strict=True)):
        table.add_row(
            f"{number}" if number else "0 (embedding)",
            f"{layer.purity:.2f}",
            _interval(layer),
            f"{layer.silhouette:+.2f}",
            f"{before.purity:.2f}",
        )
    yield table
    table = _table("attention off in", "purity, last layer", "95 %")
    for name, off in found.last_without.items():
        table.add_row(name, f"{off.purity:.2f}", _interval(off))
    yield table
    yield (
        f"Purity: share of the {neighbours} nearest sentences with the same sense. Shuffled senses "
        f"give {chance:.2f}, up to {upper:.2f}."
    )
    first = found.separates_from
    yield (
        "The last layer does not separate the senses better than chance."
        if first is None
        else f"The senses separate from layer {first} on."
    )


def comparison_table(founds: Sequence[Senses]) -> Table:
    """Returns a table with one row per run, for the same word in the same sentences.

    The difference is that of the last layer's purity to the first run's, with its 95 % interval.
    """
    table = _table("run", "purity, last layer", "best layer", "from layer", "difference")
    first = founds[0].layers[-1].per_sentence
    for found in founds:
        last = found.layers[-1]
        purities = [layer.purity for layer in found.layers]
        best = int(np.argmax(purities))
        difference = last.per_sentence - first
        numbers = np.random.default_rng(0).integers(len(first), size=(1000, len(first)))
        low, high = np.quantile(difference[numbers].mean(axis=1), [0.025, 0.975])
        table.add_row(
            escape(found.title),
            f"{last.purity:.2f} {_interval(last)}",
            f"{best}: {purities[best]:.2f}",
            "none" if found.separates_from is None else f"{found.separates_from}",
            "" if found is founds[0] else f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}]",
        )
    return table


def of_all_words(founds: Sequence[Senses]) -> Iterator[Any]:
    """Yields what a terminal prints about all words of one run."""
    yield escape(f"{founds[0].title}: purity by layer")
    layers = range(len(founds[0].layers))
    table = _table("word", "senses", *(f"{i}" for i in layers), "untrained", "attention off")
    rows = [
        [
            *(layer.purity for layer in found.layers),
            found.untrained[-1].purity,
            found.last_without["all layers"].purity,
        ]
        for found in founds
    ]
    for found, row in zip(founds, rows, strict=True):
        table.add_row(
            escape(found.word), f"{len(found.senses)}", *(f"{value:.2f}" for value in row)
        )
    table.add_section()
    table.add_row("mean", "", *(f"{value:.2f}" for value in np.mean(rows, axis=0)))
    yield table
    yield "untrained, attention off: purity of the last layer. --word shows one word in full."


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _interval(found: Separation) -> str:
    low, high = found.interval
    return escape(f"[{low:.2f}, {high:.2f}]")
