"""What the data of a task is: the contract between it and all that trains and measures."""

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
    """Data of a task as batches. Nothing is read before `prepare`.

    A batch is a tuple, best a `NamedTuple`, of tensors whose first axis counts examples.

    Attributes:
        val_max_tokens: tokens of the validation split that a validation while training takes; None:
            all.
        final_max_tokens: the same for the final numbers.
    """

    val_max_tokens: int | None = None
    final_max_tokens: int | None = None

    def prepare(self) -> None:  # noqa: B027
        """Reads or makes what batches are cut from. Default: nothing.

        Raises:
            DataError: if it is missing or bad.
        """

    @abstractmethod
    def train_batches(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> StepBatches[Any]:
        """Returns the training batches from `start` up to before `stop`.

        Batch n is a function of (seed, n): so a resumed run goes on with the batches that it would
        have had. With several processes each gets its part of it, see `share_of`.
        """

    @abstractmethod
    def val_batches(self, max_tokens: int | None) -> Any:
        """Returns fixed batches of the validation split, a dataset with a length: of `max_tokens`
        tokens, at least one batch, or (None) of all.
        """

    @property
    @abstractmethod
    def vocab_sizes(self) -> tuple[int, ...]:
        """What the model is built for: the positional arguments of its class, such as the size of
        the vocabulary. Known after `prepare`.
        """

    @property
    @abstractmethod
    def tokens_per_batch(self) -> float:
        """Tokens of a batch, over all processes, on average; budgets count them."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what pins the data down, in plain types: its `source`, a `sha256`. A run does not
        resume with data that says something else.
        """

    def save_vocabulary(self, directory: Path) -> None:  # noqa: B027
        """Writes what a trained model reads its input with into a run's directory. Default:
        nothing, since the recipe says it all.
        """


class TensorData(TaskData):
    """Examples that fit into memory, as tensors whose first axis counts them.

    A step's batch is drawn uniformly, with repetition, from the training examples by (seed, step).

    Args:
        source: name of the data, for the record of a run.
        read: returns the training and the validation examples: a tuple of tensors each, best a
            `NamedTuple`, which batches then are too.
        batch_size: examples of a step over all processes.
        seed: of the run.
        vocab_sizes: what the model is built for.
        length: tokens of an example.

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
        """Reads the examples."""
        self.train, self.val = self.read()

    def train_batches(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> StepBatches[Any]:
        """Returns the batches of the steps from `start` up to before `stop`."""
        mine = share_of(self.batch_size, rank, world_size)
        return _DrawnExamples(self.train, self.seed, self.batch_size, mine, start, stop)

    def val_batches(self, max_tokens: int | None) -> Sequence[Any]:
        """Returns the validation examples in their order, of `max_tokens` tokens or (None) all."""
        count = None if max_tokens is None else max(1, max_tokens // self.length)
        parts = (part[:count].split(self.batch_size) for part in self.val)
        return [_like(self.val, batch) for batch in zip(*parts, strict=True)]

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """What the model is built for."""
        return self._vocab_sizes

    @property
    def tokens_per_batch(self) -> float:
        """Tokens of a batch, over all processes."""
        return self.batch_size * self.length

    def describe(self) -> dict[str, Any]:
        """Returns the name of the data, how many examples there are, and a digest of them all."""
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
    """A batch of the kind of the examples: their named tuple, or a tuple."""
    make = getattr(examples, "_make", tuple)
    return make(parts)
