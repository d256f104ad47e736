"""In which order a DataLoader takes batches."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler


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
