"""What a step of translation is fed with.

Shape letters: `B` pairs in the batch, `S` source tokens, `T` target tokens, padding included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
"""Target that no loss counts: torch's own default."""


class TranslationBatch(NamedTuple):
    """Sentences and their translations, padded at the right.

    A source ends in the end token; a target begins with it (there it means "begin") and is to
    predict it at its end.

    Attributes:
        source: (B, S) int64.
        source_keep: (B, S) boolean, True where a token is real.
        target: (B, T) int64, what the decoder reads.
        predicted: (B, T) int64, what it is to predict; -100 where it is padding.
        num_tokens: how many targets are real.
        weight: what the mean loss of this batch counts for, where it is one process's part of a
            larger one: its share of all real targets, times the number of processes.
    """

    source: Tensor
    source_keep: Tensor
    target: Tensor
    predicted: Tensor
    num_tokens: int
    weight: float = 1.0


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
