"""The batches of translation.

Shape letters: `B` pairs in the batch, `S` source tokens, `T` target tokens, padding included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnkit.data.reading import Reading
from attnkit.data.tokenizer_base import Tokenizer

IGNORED = -100
"""Target that a loss ignores; torch's default."""

ROW_NOTE = "a decoder's row belongs to the token that it predicts"
"""A note for viewers of a decoder's maps."""


class TranslationBatch(NamedTuple):
    """Sentences and their translations, padded on the right.

    A source ends in the end token. A target begins with it (as a start token), and must predict it
    at its end.

    Attributes:
        source: (B, S) int64.
        source_keep: (B, S) boolean, True for real tokens.
        target: (B, T) int64, the decoder's input.
        predicted: (B, T) int64, the decoder's targets; -100 for padding.
        num_tokens: number of real targets that this process learns from.
    """

    source: Tensor
    source_keep: Tensor
    target: Tensor
    predicted: Tensor
    num_tokens: int


class PairTexts(NamedTuple):
    """The tokens of one pair as text, in the order of a map's axes.

    Attributes:
        source: the encoder's input.
        reads: the decoder's input.
        predicts: the decoder's targets, which label the rows of its maps.
    """

    source: list[str]
    reads: list[str]
    predicts: list[str]

    @property
    def by_site(self) -> dict[str, tuple[list[str], list[str]]]:
        """Returns the texts of both axes for each attention site."""
        return {
            "encoder.self": (self.source, self.source),
            "decoder.self": (self.predicts, self.reads),
            "decoder.cross": (self.predicts, self.source),
        }


def pair_texts(batch: TranslationBatch, tokenizers: tuple[Tokenizer, Tokenizer]) -> PairTexts:
    """Returns the token texts of a batch with one pair.

    Args:
        batch: one pair, without padding.
        tokenizers: tokenizers of source and target.
    """
    source, target = tokenizers
    return PairTexts(
        [source.token_text(token) for token in batch.source[0].tolist()],
        [target.token_text(token) for token in batch.target[0].tolist()],
        [target.token_text(token) for token in batch.predicted[0].tolist()],
    )


def pair_reading(
    batch: TranslationBatch,
    texts: PairTexts,
    token_text: Callable[[int], str],
    notes: Sequence[str] = (),
) -> Reading:
    """Returns one pair, without padding, as an encoder-decoder reads it."""
    inputs = (batch.source, batch.source_keep, batch.target)
    answers = batch.predicted[0].tolist()
    return Reading(inputs, "decoder", texts.reads, answers, token_text, notes)


def padded(rows: Sequence[np.ndarray], end: int) -> tuple[Tensor, Tensor]:
    """Appends an end token to each row and pads with it; returns ids and `keep`, (N, S) each."""
    lengths = torch.tensor([len(row) + 1 for row in rows])
    width = int(lengths.max())
    tokens = np.full((len(rows), width), end, dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return torch.from_numpy(tokens), torch.arange(width) < lengths[:, None]


def translation_batch(
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    source_end: int,
    target_end: int,
) -> TranslationBatch:
    """Pads sentences into a batch.

    Args:
        sources: token ids of each source, without an end token.
        targets: token ids of each target, without an end token.
        source_end: the source vocabulary's end token.
        target_end: the target vocabulary's end token.
    """
    return TranslationBatch(*padded(sources, source_end), *target_batch(targets, target_end))


def target_batch(targets: Sequence[np.ndarray], end: int) -> tuple[Tensor, Tensor, int]:
    """Pads targets; returns the decoder's inputs and targets (B, T), and the number of targets."""
    ended, real = padded(targets, end)
    begin = torch.full((len(targets), 1), end)
    read = torch.cat((begin, ended[:, :-1]), dim=1)
    return read, ended.masked_fill(~real, IGNORED), int(real.sum())
