"""What a step of translation is fed with.

Shape letters: `B` pairs in the batch, `S` source tokens, `T` target tokens, padding included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnkit.data.tokenizer_base import Tokenizer

IGNORED = -100
"""Target that no loss counts: torch's own default."""

ROW_NOTE = "a decoder's row belongs to the token that it predicts"
"""What a viewer of a decoder's maps should know."""


class TranslationBatch(NamedTuple):
    """Sentences and their translations, padded at the right.

    A source ends in the end token; a target begins with it (there it means "begin") and is to
    predict it at its end.

    Attributes:
        source: (B, S) int64.
        source_keep: (B, S) boolean, True where a token is real.
        target: (B, T) int64, what the decoder reads.
        predicted: (B, T) int64, what it is to predict; -100 where it is padding.
        num_tokens: how many targets are real, and this process's to learn from.
    """

    source: Tensor
    source_keep: Tensor
    target: Tensor
    predicted: Tensor
    num_tokens: int


class PairTexts(NamedTuple):
    """The token texts of one pair, as they stand along the axes of a map.

    Attributes:
        source: what the encoder reads.
        reads: what the decoder reads.
        predicts: what it is to predict; the rows of its maps.
    """

    source: list[str]
    reads: list[str]
    predicts: list[str]

    @property
    def by_site(self) -> dict[str, tuple[list[str], list[str]]]:
        """The texts of both axes at each place where a model attends."""
        return {
            "encoder.self": (self.source, self.source),
            "decoder.self": (self.predicts, self.reads),
            "decoder.cross": (self.predicts, self.source),
        }


def pair_texts(batch: TranslationBatch, tokenizers: tuple[Tokenizer, Tokenizer]) -> PairTexts:
    """The token texts of a batch of one pair.

    Args:
        batch: one pair, without padding.
        tokenizers: of source and target.
    """
    source, target = tokenizers
    return PairTexts(
        [source.token_text(token) for token in batch.source[0].tolist()],
        [target.token_text(token) for token in batch.target[0].tolist()],
        [target.token_text(token) for token in batch.predicted[0].tolist()],
    )


def padded(rows: Sequence[np.ndarray], end: int) -> tuple[Tensor, Tensor]:
    """Returns rows with an end token behind each, padded with it, and what is real: (N, S) each."""
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
    source, source_keep = padded(sources, source_end)
    ended, real = padded(targets, target_end)
    begin = torch.full((len(targets), 1), target_end)
    return TranslationBatch(
        source,
        source_keep,
        torch.cat((begin, ended[:, :-1]), dim=1),
        ended.masked_fill(~real, IGNORED),
        int(real.sum()),
    )
