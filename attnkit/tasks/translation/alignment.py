"""Word alignments from cross-attention, and their agreement with gold ones.

The decoder's row t reads target token t - 1 and predicts token t. The *predicting* row of a word is
the one that predicts its first token, the *input* row the one that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from attnkit.attention.maps import attention_maps
from attnkit.data.alignments import AlignmentScore, Gold, Link, token_words
from attnkit.data.pair_batch import translation_batch
from attnkit.data.pairs.base import CharacterSpan
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.models.encoder_decoder import EncoderDecoder

Row = Literal["predicting", "input"]

ROWS: tuple[Row, ...] = ("predicting", "input")

MEAN = -1
"""As the number of a head: the mean over the heads of a layer; as that of a layer too: the mean
over the heads of all layers, which often complement each other.
"""


class Place(NamedTuple):
    """The origin of a map: layer and head (`MEAN`: all of them), and which rows are read."""

    layer: int
    head: int
    row: Row

    def __str__(self) -> str:
        if self.layer == MEAN:
            return "mean of all layers and heads"
        head = "mean of heads" if self.head == MEAN else f"head {self.head}"
        return f"layer {self.layer}, {head}"


class Sentence(NamedTuple):
    """A sentence pair with its words.

    Attributes:
        source: the sentence.
        target: its translation.
        source_words: character spans of the source's words.
        target_words: character spans of the target's words.
    """

    source: str
    target: str
    source_words: Sequence[CharacterSpan]
    target_words: Sequence[CharacterSpan]


def cross_links(
    model: EncoderDecoder, tokenizers: tuple[Tokenizer, Tokenizer], sentence: Sentence
) -> dict[Place, set[Link]]:
    """Links each target word to the source word that its row attends to most, for every place.

    The weight of a source word is the sum over its tokens. A row that attends most to something
    that is not a word (the end token, a separate space) gives no link. Sentences longer than the
    model's longest sequence are truncated, and words beyond it have no links.
    """
    room = model.max_seq_len - 1
    source = tokenizers[0].encode(sentence.source)
    target = tokenizers[1].encode(sentence.target)
    batch = translation_batch(
        [np.array(source.ids[:room], np.int64)],
        [np.array(target.ids[:room], np.int64)],
        tokenizers[0].end_of_document_id,
        tokenizers[1].end_of_document_id,
    )
    device = next(model.parameters()).device
    inputs = (batch.source, batch.source_keep, batch.target)
    found = attention_maps(model, lambda: model(*(tensor.to(device) for tensor in inputs)))
    layers = [m.weights[0].numpy() for m in found if m.role == "cross"]
    of_token, _ = token_words(source.offsets[:room], sentence.source_words)
    nothing = len(sentence.source_words)
    column = np.array([nothing if word is None else word for word in (*of_token, None)])
    to_word = np.eye(nothing + 1)[column]  # (S, W + 1)
    _, first = token_words(target.offsets[:room], sentence.target_words)
    starts = [(word, token) for word, token in enumerate(first) if token is not None]
    maps = {(layer, head): m for layer, heads in enumerate(layers) for head, m in enumerate(heads)}
    maps |= {(layer, MEAN): heads.mean(axis=0) for layer, heads in enumerate(layers)}
    maps[MEAN, MEAN] = np.mean([maps[layer, MEAN] for layer in range(len(layers))], axis=0)
    links: dict[Place, set[Link]] = {}
    for (layer, head), weights in maps.items():
        pointed = (weights @ to_word).argmax(axis=-1)  # (T,)
        for row in ROWS:
            shift = 0 if row == "predicting" else 1
            links[Place(layer, head, row)] = {
                (int(pointed[token + shift]), word)
                for word, token in starts
                if pointed[token + shift] != nothing
            }
    return links


def score_places(
    model: EncoderDecoder,
    tokenizers: tuple[Tokenizer, Tokenizer],
    sentences: Iterable[tuple[Sentence, Gold]],
) -> dict[Place, AlignmentScore]:
    """Scores every layer, head and row convention against gold alignments."""
    scores: dict[Place, AlignmentScore] = {}
    for sentence, gold in sentences:
        for place, links in cross_links(model, tokenizers, sentence).items():
            scores.setdefault(place, AlignmentScore()).add(links, gold)
    return scores


def best_place(scores: dict[Place, AlignmentScore], row: Row = "predicting") -> Place:
    """Returns the place with the lowest error rate among those that read this row."""
    return min((p for p in scores if p.row == row), key=lambda p: scores[p].error_rate)


def table(scores: dict[Place, AlignmentScore]) -> str:
    """Returns error rate and pointing precision of all places by both rows, as lines of text."""
    lines = ["layer  head   AER, precision (predicting row)   AER, precision (input row)"]
    for place in _places(scores):
        predicting, reading = (scores[place._replace(row=row)] for row in ROWS)
        layer, head = ("mean" if n == MEAN else n for n in (place.layer, place.head))
        lines.append(
            f"{layer:>5}  {head:>4}   {predicting.error_rate:.3f}  "
            f"{predicting.precision:.3f}                     {reading.error_rate:.3f}  "
            f"{reading.precision:.3f}"
        )
    return "\n".join(lines)


def _places(scores: dict[Place, AlignmentScore]) -> Iterator[Place]:
    yield from sorted((p for p in scores if p.row == "predicting"), key=lambda p: (p.layer, p.head))
