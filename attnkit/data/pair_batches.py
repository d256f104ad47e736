"""Batches of sentence pairs of similar length; each is a function of (seed, step)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.order import StepBatches
from attnkit.data.pair_batch import TranslationBatch
from attnkit.data.pair_store import PairStore
from attnkit.errors import DataError

SOURCE_STEP = 3
"""Width of a bucket of source lengths; pairs within a bucket are shuffled."""


class PairTrainBatches(StepBatches[TranslationBatch]):
    """The training batches of the steps `start` to `stop`, for a DataLoader or by index.

    Pairs are sorted by target length and, within it, by source length in steps of three. Batches
    are cut from that order so that neither side has more than `batch_tokens` tokens, padding
    included. Each epoch shuffles the pairs within a bucket, and the batches. The sequence of
    *lengths* never changes, so every epoch has the same number of batches, and batch n is found
    without the ones before it.

    Args:
        store: the training pairs.
        seed: seed of the run.
        batch_tokens: largest number of tokens of either side.
        start: first batch.
        stop: one past the last batch.
        rank: number of this process.
        world_size: number of processes. Each takes every `world_size`-th pair of a batch; a process
            without a pair gets one that does not count.
    """

    def __init__(
        self,
        store: PairStore,
        *,
        seed: int,
        batch_tokens: int,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(start, stop)
        self.store = store
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._target, self._source = bucket_lengths(store)
        self._order = np.lexsort((self._source, self._target))
        self.bounds = cut(self._source[self._order], self._target[self._order], batch_tokens)

    @property
    def num_per_epoch(self) -> int:
        """Number of batches per epoch."""
        return len(self.bounds) - 1

    def batch(self, step: int) -> TranslationBatch:
        """Returns this process's part of a step's batch."""
        members = self.members(step)
        if self.world_size == 1:
            return self.store.batch(members)
        mine = members[self.rank :: self.world_size]
        if len(mine):
            return self.store.batch(mine)
        return self.store.batch(members[:1])._replace(num_tokens=0)

    def members(self, number: int) -> np.ndarray:
        """Returns the indices in the store of the pairs of a global batch."""
        epoch, place = divmod(number, self.num_per_epoch)
        order, batches = self._epoch(epoch)
        which = batches[place]
        return order[self.bounds[which] : self.bounds[which + 1]]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return _shuffled(self, epoch)

    def shuffle(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pairs and the batches of an epoch in their shuffled order."""
        numbers = KeyedRandom(self.seed, epoch)
        ties = numbers.bits(len(self._order))
        order = np.lexsort((ties, self._source, self._target))
        return order, np.argsort(numbers.bits(self.num_per_epoch), kind="stable")


@lru_cache(maxsize=4)  # every step needs its epoch
def _shuffled(batches: PairTrainBatches, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    return batches.shuffle(epoch)


class PairValBatches(Dataset[TranslationBatch]):
    """Fixed batches over a split, sorted by length.

    Args:
        store: the pairs.
        batch_tokens: largest number of tokens of either side.
        max_tokens: use evenly spread pairs up to this number of target tokens, at least one pair;
            None: all.

    Attributes:
        share: share of the split's pairs that are used.
    """

    def __init__(self, store: PairStore, *, batch_tokens: int, max_tokens: int | None) -> None:
        self.store = store
        lengths = store.target_lengths
        total = int(lengths.sum())
        share = 1.0 if max_tokens is None else min(1.0, max_tokens / total)
        count = max(1, int(len(lengths) * share))
        self.share = count / len(lengths)
        chosen = np.arange(count) * len(lengths) // count
        order = np.lexsort((store.source_lengths[chosen], lengths[chosen]))
        self.chosen = chosen[order]
        self.bounds = cut(store.source_lengths[self.chosen], lengths[self.chosen], batch_tokens)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> TranslationBatch:
        """Returns batch `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} is out of range: there are {len(self)}")
        return self.store.batch(self.chosen[self.bounds[index] : self.bounds[index + 1]])


def bucket_lengths(store: PairStore) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sort keys of pairs: target lengths, and source lengths rounded up to steps."""
    source = -(-store.source_lengths // SOURCE_STEP) * SOURCE_STEP
    return store.target_lengths, source


def cut(source: np.ndarray, target: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Cuts sorted pairs into batches.

    Args:
        source: (N,) source lengths in that order.
        target: (N,) target lengths in that order.
        batch_tokens: largest number of tokens of either side, padding included.

    Returns:
        (M + 1,) the index at which each batch begins, and N.

    Raises:
        DataError: if a single pair exceeds `batch_tokens`.
    """
    longest = int(max(source.max(), target.max()))
    if longest > batch_tokens:
        raise DataError(
            f"trainer.batch_tokens {batch_tokens} is less than a pair of {longest} tokens needs; "
            "raise it, or set model.max_seq_len lower"
        )
    bounds = [0]
    widest = 0
    for place, width in enumerate(np.maximum(source, target).tolist()):
        widest = max(widest, width)
        if (place + 1 - bounds[-1]) * widest > batch_tokens:
            bounds.append(place)
            widest = width
    return np.array([*bounds, len(target)])
