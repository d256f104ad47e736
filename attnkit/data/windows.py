"""Batches cut from a token stream; the training batch of a step is a function of (seed, step)."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from attnkit.data.batch import LanguageBatch, language_batch
from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.order import StepBatches, share_of
from attnkit.data.token_store import TokenStore


class TrainBatches(StepBatches[LanguageBatch]):
    """The training batches of the steps `start` to `stop`, for a DataLoader or by index.

    Windows begin at random places of the whole training stream, drawn uniformly with repetition.
    The places of step n come from `KeyedRandom` with the keys (seed, n), so they depend neither on
    earlier draws nor on the process: `DataLoader(batches, batch_size=None, num_workers=k)` gives
    the same batches for every k, and a resumed run continues exactly.

    Args:
        store: the training split.
        seed: seed of the run.
        batch_size: windows per step over all processes.
        max_seq_len: tokens in a window.
        end_of_document_id: used to number documents, or None.
        start: first step.
        stop: one past the last step.
        rank: number of this process.
        world_size: number of processes, each of which gets its part of the same global batch.

    Raises:
        DataError: if the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        seed: int,
        batch_size: int,
        max_seq_len: int,
        end_of_document_id: int | None,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(start, stop)
        self.store = store
        self.seed = seed
        self.batch_size = batch_size
        self.max_seq_len = max_seq_len
        self.end_of_document_id = end_of_document_id
        self._mine = share_of(batch_size, rank, world_size)

    def batch(self, step: int) -> LanguageBatch:
        """Returns this process's part of a step's batch."""
        return language_batch(
            self.store.tokens,
            self.window_starts(step)[self._mine],
            self.max_seq_len,
            self.end_of_document_id,
        )

    def window_starts(self, step: int) -> np.ndarray:
        """Returns the (batch_size,) positions at which the windows of the global batch begin."""
        places = self.store.counts.tokens - self.max_seq_len
        return KeyedRandom(self.seed, step).below(places, self.batch_size)


class ValBatches(Dataset[LanguageBatch]):
    """Fixed windows of the validation split, without overlap, evenly spread.

    The last batch may be smaller. Tokens after the last whole window are not used.

    Args:
        store: the validation split.
        batch_size: windows per batch.
        max_seq_len: tokens in a window.
        end_of_document_id: used to number documents, or None.
        max_tokens: use as many windows as fit into this, at least one; None: all.

    Attributes:
        share: share of the split's windows that are used.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        batch_size: int,
        max_seq_len: int,
        end_of_document_id: int | None,
        max_tokens: int | None,
    ) -> None:
        self.store = store
        self.batch_size = batch_size
        self.max_seq_len = max_seq_len
        self.end_of_document_id = end_of_document_id
        windows = (store.counts.tokens - 1) // max_seq_len
        used = windows if max_tokens is None else max(1, min(windows, max_tokens // max_seq_len))
        self.share = used / windows
        self.starts = np.arange(used) * windows // used * max_seq_len

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.starts) // self.batch_size)

    def __getitem__(self, index: int) -> LanguageBatch:
        """Returns batch `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} is out of range: there are {len(self)}")
        starts = self.starts[index * self.batch_size : (index + 1) * self.batch_size]
        return language_batch(self.store.tokens, starts, self.max_seq_len, self.end_of_document_id)

    @property
    def num_tokens(self) -> int:
        """Predicted tokens of all batches together."""
        return len(self.starts) * self.max_seq_len
