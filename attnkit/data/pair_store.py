"""A split of sentence pairs as token ids, with the number of dropped pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from attnkit.data.pair_batch import TranslationBatch, padded, target_batch
from attnkit.data.pairs.base import Pair
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.errors import DataError


@dataclass(frozen=True)
class Dropped:
    """Numbers of dropped pairs: one side is empty, too long, or much longer than the other."""

    empty: int
    too_long: int
    lopsided: int

    @property
    def total(self) -> int:
        """All dropped pairs."""
        return self.empty + self.too_long + self.lopsided


@dataclass(frozen=True, eq=False)
class PairStore:
    """Pairs as text and as token ids, without end tokens.

    Attributes:
        pairs: the pairs that were kept.
        sources: token ids of each source.
        targets: token ids of each target.
        source_lengths: (N,) tokens of each source, including its end token.
        target_lengths: (N,) tokens of each target, including its end token.
        ends: the end tokens of the source's and the target's vocabulary.
        dropped: the numbers of dropped pairs.
    """

    pairs: Sequence[Pair]
    sources: Sequence[np.ndarray]
    targets: Sequence[np.ndarray]
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    ends: tuple[int, int]
    dropped: Dropped

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def unknown_share(self, unknown_id: int | None) -> float:
        """Returns the share of target tokens that are `unknown_id`."""
        unknown = sum(int((row == unknown_id).sum()) for row in self.targets)
        return 0.0 if unknown_id is None else unknown / int(self.target_lengths.sum())

    def batch(self, members: np.ndarray) -> TranslationBatch:
        """Returns some pairs as a padded batch."""
        targets = target_batch([self.targets[i] for i in members], self.ends[1])
        return TranslationBatch(*self.pad_sources([self.sources[i] for i in members]), *targets)

    def pad_sources(self, rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Returns sources as the model reads them, padded, and True for what is real, (N, S)."""
        return padded(rows, self.ends[0])


def pair_store(
    pairs: Sequence[Pair],
    tokenizers: tuple[Tokenizer, Tokenizer],
    *,
    split: str,
    max_seq_len: int,
    max_ratio: float | None,
    keep_all: bool = False,
) -> PairStore:
    """Tokenises pairs and drops unusable ones.

    Args:
        pairs: the pairs of a split.
        tokenizers: tokenizers of source and target.
        split: its name, for messages.
        max_seq_len: longest source or target in tokens, including its end token.
        max_ratio: largest ratio of the two lengths; None: any.
        keep_all: truncate instead of dropping, as required for scoring a test set.

    Raises:
        DataError: if no pair is left.
    """
    usable = keep_usable(
        pairs,
        tokenizers[0].encode_batch([pair.source for pair in pairs]),
        tokenizers[1].encode_batch([pair.target for pair in pairs]),
        split=split,
        max_seq_len=max_seq_len,
        max_ratio=max_ratio,
        keep_all=keep_all,
    )
    return PairStore(
        pairs=[pairs[i] for i in usable.members],
        sources=[row.astype(np.int32) for row in usable.sources],
        targets=[row.astype(np.int32) for row in usable.targets],
        source_lengths=np.array([len(row) + 1 for row in usable.sources]),
        target_lengths=np.array([len(row) + 1 for row in usable.targets]),
        ends=(tokenizers[0].end_of_document_id, tokenizers[1].end_of_document_id),
        dropped=usable.dropped,
    )


class UsablePairs(NamedTuple):
    """The usable pairs of a split.

    Attributes:
        members: their indices.
        sources: their sources.
        targets: their targets.
        dropped: the numbers of the others.
    """

    members: list[int]
    sources: list[np.ndarray]
    targets: list[np.ndarray]
    dropped: Dropped


def keep_usable(
    pairs: Sequence[Pair],
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    *,
    split: str,
    max_seq_len: int,
    max_ratio: float | None,
    keep_all: bool,
) -> UsablePairs:
    """Drops unusable pairs, or truncates them.

    Args:
        pairs: the pairs of a split.
        sources: (S, ...) each, without end tokens.
        targets: (T,) each, without end tokens.
        split: name of the split, for messages.
        max_seq_len: longest side.
        max_ratio: largest ratio of the two lengths; None: any.
        keep_all: truncate instead of dropping.

    Raises:
        DataError: if no pair is left.
    """
    room = max_seq_len - 1
    if keep_all:
        sources = [row[:room] for row in sources]
        targets = [row[:room] for row in targets]
    lengths = np.array([(len(s), len(t)) for s, t in zip(sources, targets, strict=True)])
    lengths = lengths.reshape(-1, 2)
    blank = [not pair.source.strip() or not pair.target.strip() for pair in pairs]
    empty = np.array(blank, dtype=bool) | (lengths.min(axis=1, initial=1) == 0)
    too_long = ~empty & (lengths.max(axis=1, initial=0) > room)
    lopsided = np.zeros(len(pairs), dtype=bool)
    if max_ratio is not None and len(pairs):
        ratio = (lengths.max(axis=1) + 1) / (lengths.min(axis=1) + 1)
        lopsided = ~empty & ~too_long & (ratio > max_ratio)
    members = np.flatnonzero(keep_all | ~(empty | too_long | lopsided)).tolist()
    dropped = Dropped(int(empty.sum()), int(too_long.sum()), int(lopsided.sum()))
    if not members:
        raise DataError(
            f"the {split} split has no pair left of {len(pairs):,}: {dropped.empty:,} are empty, "
            f"{dropped.too_long:,} longer than model.max_seq_len {max_seq_len} tokens, "
            f"{dropped.lopsided:,} lopsided beyond translation.max_ratio {max_ratio}"
        )
    return UsablePairs(
        members,
        [sources[i] for i in members],
        [targets[i] for i in members],
        Dropped(0, 0, 0) if keep_all else dropped,
    )
