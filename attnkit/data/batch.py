"""The batches of language modeling.

Shape letters: `B` windows in the batch, `T` tokens in a window.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Tokens(Protocol):
    """(N,) token ids: an array in memory, a memory map, or several arrays that are read as one."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        """Returns the ids at these positions, in the shape of `index`."""
        ...


class LanguageBatch(NamedTuple):
    """Windows of text, each with the same window one token later.

    A named tuple, because Lightning and DataLoader move and pin such fields one by one.

    Attributes:
        tokens: (B, T) int64, what the model reads.
        targets: (B, T) int64, the next tokens: `targets[:, t]` follows `tokens[:, t]`.
        documents: (B, T) int64, number of each token's document within its window, from 0; an
            end-of-document token belongs to the document that it ends. None unless requested.
    """

    tokens: Tensor
    targets: Tensor
    documents: Tensor | None = None


def filled_up(rows: Tensor, number: int, value: int = 0) -> Tensor:
    """Pads a batch (B, T) with rows of `value` to at least `number` rows."""
    missing = number - len(rows)
    return F.pad(rows, (0, 0, 0, missing), value=value) if missing > 0 else rows


def language_batch(
    stream: Tokens, starts: np.ndarray, length: int, end_of_document_id: int | None
) -> LanguageBatch:
    """Cuts windows out of a stream of tokens.

    Args:
        stream: (N,) token ids of any integer type.
        starts: (B,) first token of each window; at most `N - length - 1`.
        length: tokens in a window, T.
        end_of_document_id: the token that ends a document, used to number documents; None: no
            document numbers.
    """
    # One gather of T + 1 tokens. The two copies are contiguous, so that a loss may flatten them.
    windows = stream[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    tokens = windows[:, :-1].copy()
    targets = torch.from_numpy(windows[:, 1:].copy())
    if end_of_document_id is None:
        return LanguageBatch(torch.from_numpy(tokens), targets)
    ends = tokens == end_of_document_id
    documents = np.cumsum(ends, axis=1) - ends
    return LanguageBatch(torch.from_numpy(tokens), targets, torch.from_numpy(documents))
