"""The contract of a task's data."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.order import StepBatches, share_of


class TaskData(ABC):
    """The data of a task, served in batches. Reads nothing before `prepare`.

    A batch is a tuple, preferably a `NamedTuple`, of tensors whose first axis is the batch.

    Attributes:
        val_max_tokens: tokens of a validation during training; None: the whole split.
        final_max_tokens: the same for the final validation.
    """

    val_max_tokens: int | None = None
    final_max_tokens: int | None = None

    def prepare(self) -> None:  # noqa: B027
        """Reads or generates the data. Default: does nothing.

        Raises:
            DataError: if the data is missing or invalid.
        """

    @abstractmethod
    def train_batches(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> StepBatches[Any]:
        """Returns the training batches `start` to `stop - 1`.

        Batch n is a function of (seed, n), so a resumed run gets the same batches as an
        uninterrupted one. Each of several processes gets its part of it, see `share_of`.
        """

    @abstractmethod
    def val_batches(self, max_tokens: int | None) -> Any:
        """Returns fixed batches of the validation split, with a length: `max_tokens` tokens, at
        least one batch; None: the whole split.
        """

    @property
    @abstractmethod
    def vocab_sizes(self) -> tuple[int, ...]:
        """The positional arguments of the model's class, such as the size of the vocabulary. Known
        after `prepare`.
        """

    @property
    @abstractmethod
    def tokens_per_batch(self) -> float:
        """Tokens per batch, over all processes, on average; used for budgets."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what identifies the data, in plain types: its `source`, a `sha256`. A run only
        resumes with data of the same description.
        """

    def save_vocabulary(self, directory: Path) -> None:  # noqa: B027
        """Writes the vocabulary to a run's directory. Default: does nothing."""


class TensorData(TaskData):
    """Examples that fit into memory, as tensors whose first axis is the example.

    A step's batch is drawn uniformly, with repetition, from the training examples by (seed, step).

    Args:
        source: name of the data, for the record of a run.
        read: returns the training and the validation examples, each a tuple of tensors, preferably
            a `NamedTuple`; batches have the same type.
        batch_size: examples per step over all processes.
        seed: seed of the run.
        vocab_sizes: positional arguments of the model's class.
        length: tokens per example.

    Attributes:
        train: the training examples, after `prepare`.
        val: the validation examples, after `prepare`.
    """

    train: Any
    val: Any

    def __init__(
        self,
        source: str,
        read: Callable[[], tuple[Any, Any]],
        *,
        batch_size: int,
        seed: int,
        vocab_sizes: tuple[int, ...],
        length: int,
    ) -> None:
        self.source = source
        self.read = read
        self.batch_size = batch_size
        self.seed = seed
        self.length = length
        self._vocab_sizes = vocab_sizes

    def prepare(self) -> None:
        self.train, self.val = self.read()

    def train_batches(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> StepBatches[Any]:
        mine = share_of(self.batch_size, rank, world_size)
        return _DrawnExamples(self.train, self.seed, self.batch_size, mine, start, stop)

    def val_batches(self, max_tokens: int | None) -> Sequence[Any]:
        count = None if max_tokens is None else max(1, max_tokens // self.length)
        parts = (part[:count].split(self.batch_size) for part in self.val)
        return [_like(self.val, batch) for batch in zip(*parts, strict=True)]

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        return self._vocab_sizes

    @property
    def tokens_per_batch(self) -> float:
        return self.batch_size * self.length

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for part in (*self.train, *self.val):
            digest.update(part.contiguous().numpy().tobytes())
        return {
            "source": self.source,
            "train": len(self.train[0]),
            "val": len(self.val[0]),
            "sha256": digest.hexdigest(),
        }


class _DrawnExamples(StepBatches[Any]):
    def __init__(
        self, examples: Any, seed: int, batch_size: int, mine: slice, start: int, stop: int
    ) -> None:
        super().__init__(start, stop)
        self.examples = examples
        self.seed = seed
        self.batch_size = batch_size
        self.mine = mine

    def batch(self, step: int) -> Any:
        drawn = KeyedRandom(self.seed, step).below(len(self.examples[0]), self.batch_size)
        rows = torch.from_numpy(drawn[self.mine])
        return _like(self.examples, [part[rows] for part in self.examples])


def _like(examples: Any, parts: Iterable[Tensor]) -> Any:
    """Returns a batch of the same type as the examples."""
    make = getattr(examples, "_make", tuple)
    return make(parts)
