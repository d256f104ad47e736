"""In which order a DataLoader takes batches, and which part of one a process gets."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from attnkit.data.errors import DataError


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
