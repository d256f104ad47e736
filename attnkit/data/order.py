"""Maps batches to steps, orders them for a DataLoader, divides them among processes, and ends
loading processes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset, Sampler

from attnkit.errors import DataError

Batch = TypeVar("Batch", covariant=True)


class StepBatches(Dataset[Batch], ABC):
    """The training batches of the steps `start` to `stop`, for a DataLoader or by index.

    Args:
        start: first step.
        stop: one past the last step.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """Returns the batch of a step: a function of the run's seed and the step only."""

    def __len__(self) -> int:
        """Number of steps."""
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch:
        """Returns the batch of step `start + index`.

        Raises:
            IndexError: if there is no such batch.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} is out of range: there are {len(self)}")
        return self.batch(self.start + index)


class BatchesFrom(Sampler[int]):
    """Yields the batch numbers of a run from a given one on.

    Its length is that of the whole run, because Lightning counts batches from the beginning even
    when it resumes.

    Args:
        first: number of the first batch.
        stop: one past the last number, and the length.
    """

    def __init__(self, first: int, stop: int) -> None:
        self.first = first
        self.stop = stop

    def __iter__(self) -> Iterator[int]:
        """Yields the remaining numbers."""
        return iter(range(self.first, self.stop))

    def __len__(self) -> int:
        """Number of batches of the whole run."""
        return self.stop


class StepsAhead:
    """Iterates over a loader, one step ahead.

    Loads all batches of a step and passes them to `use`, while they are still on the host, before
    it yields the first of them.

    Args:
        loader: yields the batches.
        batches_per_step: number of batches per optimizer step.
        use: called with the list of a step's batches.
    """

    def __init__(
        self, loader: DataLoader[Any], batches_per_step: int, use: Callable[[list[Any]], None]
    ) -> None:
        self.loader = loader
        self.batches_per_step = batches_per_step
        self.use = use

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches."""
        batches = iter(self.loader)
        while step := list(islice(batches, self.batches_per_step)):
            self.use(step)
            yield from step


def share_of(batch_size: int, rank: int, world_size: int) -> slice:
    """Returns the rows of the global batch for process `rank` of `world_size`.

    Raises:
        DataError: if the batch cannot be divided evenly.
    """
    if batch_size % world_size:
        raise DataError(
            f"trainer.batch_size {batch_size} cannot be divided among {world_size} processes; "
            f"use a multiple of {world_size}"
        )
    share = batch_size // world_size
    return slice(rank * share, (rank + 1) * share)


def batch_seed(seed: int, rank: int, batch: int) -> int:
    """Returns a seed that is different for each batch and process, and the same in every run."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{rank}/{batch}".encode(), digest_size=8).digest()
    )


def end_without_parent(number: int) -> None:
    """Ends a loading process (`number` is its number in torch) whose parent is already dead.

    torch watches the parent only from later on; without this check the process would wait forever.
    """
    parent = multiprocessing.parent_process()
    is_fork = multiprocessing.get_start_method() == "fork"  # else another process may be the parent
    if is_fork and parent is not None and os.getppid() != parent.pid:
        os._exit(1)
