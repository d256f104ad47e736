"""Which batch belongs to which step, in which order a DataLoader takes them, which part of one a
process gets, and when one that loads them ends.
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
        stop: the step behind the last.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """Returns the batch of a step: a function of the run's seed and of the step alone."""

    def __len__(self) -> int:
        """Number of steps."""
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch:
        """Returns the batch of step `start + index`.

        Raises:
            IndexError: if there is none.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} batches, no number {index}")
        return self.batch(self.start + index)


class BatchesFrom(Sampler[int]):
    """The batches of a run from a certain one on, in order.

    Its length is that of the whole run: Lightning counts batches from the beginning, also where it
    resumes.

    Args:
        first: number of the first batch.
        stop: the number behind the last, and the length.
    """

    def __init__(self, first: int, stop: int) -> None:
        self.first = first
        self.stop = stop

    def __iter__(self) -> Iterator[int]:
        """Yields the numbers that are left."""
        return iter(range(self.first, self.stop))

    def __len__(self) -> int:
        """Number of batches of the whole run."""
        return self.stop


class StepsAhead:
    """The batches of a loader, in order; those of one step are loaded together and shown before the
    first of them is handed out, while they still lie on the host.

    Args:
        loader: of batches.
        batches_per_step: how many of them an optimizer step takes.
        look: is shown the list of a step's batches.
    """

    def __init__(
        self, loader: DataLoader[Any], batches_per_step: int, look: Callable[[list[Any]], None]
    ) -> None:
        self.loader = loader
        self.batches_per_step = batches_per_step
        self.look = look

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches."""
        batches = iter(self.loader)
        while step := list(islice(batches, self.batches_per_step)):
            self.look(step)
            yield from step


def share_of(batch_size: int, rank: int, world_size: int) -> slice:
    """The rows of the global batch that process `rank` of `world_size` gets.

    Raises:
        DataError: if the batch cannot be divided among the processes.
    """
    if batch_size % world_size:
        raise DataError(
            f"trainer.batch_size {batch_size} cannot be divided among {world_size} processes; "
            f"take a multiple of {world_size}"
        )
    share = batch_size // world_size
    return slice(rank * share, (rank + 1) * share)


def batch_seed(seed: int, rank: int, batch: int) -> int:
    """A seed for one batch on one process: different for each, the same in every run."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{rank}/{batch}".encode(), digest_size=8).digest()
    )


def end_without_parent(number: int) -> None:
    """Ends the process that loads batches (`number` is torch's for it) if who forked it was killed
    meanwhile: torch begins only later to watch for that, and would let it wait for ever.
    """
    parent = multiprocessing.parent_process()
    is_fork = multiprocessing.get_start_method() == "fork"  # otherwise others may start it
    if is_fork and parent is not None and os.getppid() != parent.pid:
        os._exit(1)
