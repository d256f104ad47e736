"""Data of a synthetic task, drawn on demand; nothing is stored."""

from __future__ import annotations

import hashlib
from typing import Any

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.sources.base import Part
from attnkit.data.symbols import Symbols
from attnkit.data.synthetic.base import SyntheticSource
from attnkit.data.synthetic_batches import (
    Split,
    SyntheticBatch,
    SyntheticEvalBatches,
    SyntheticTrainBatches,
    draw_split,
)
from attnkit.data.task_data import TaskData
from attnkit.registry import SYNTHETIC


class SyntheticData(TaskData):
    """A synthetic task, served in batches.

    The final metrics always use whole sets, whose sizes are options of the task.

    Args:
        source: the task.
        max_seq_len: longest sequence of the model.
        batch_size: sequences per step over all processes.
        seed: seed of the run, 0 or more; it only affects the training batches.
        val_max_tokens: size of a validation during training; kept for
            `val_batches(data.val_max_tokens)`.
        val_part: data of the final metrics. `first_half`, used to choose options: the validation
            set; otherwise the test sets, which such a choice has not seen.
    """

    def __init__(
        self,
        source: SyntheticSource,
        *,
        max_seq_len: int,
        batch_size: int,
        seed: int,
        val_max_tokens: int | None,
        val_part: Part = "all",
    ) -> None:
        self.source = source
        self.tokenizer = Symbols(source.symbols)
        self.max_seq_len = max_seq_len
        self.batch_size = batch_size
        self.seed = seed
        self.val_max_tokens = val_max_tokens
        self.final_split: Split = "val" if val_part == "first_half" else "test"

    def prepare(self) -> None:
        """Checks that each split has sequences of each length.

        Raises:
            DataError: if a task has too few different ones.
        """
        source = self.source
        lengths: dict[Split, tuple[int, ...]] = {
            "train": source.train_lengths,
            "val": (source.length,),
        }
        lengths[self.final_split] = (source.length, *source.test_lengths)
        for split in lengths:
            for length in lengths[split]:
                draw_split(source, split, KeyedRandom(0, 0), 1, length)

    def train_batch(self, step: int, rank: int = 0, world_size: int = 1) -> SyntheticBatch:
        """Returns this process's part of the batch of a step."""
        return self.train_batches(step, step + 1, rank, world_size)[0]

    def train_batches(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> SyntheticTrainBatches:
        """Returns the batches of the steps `start` to `stop - 1`."""
        return SyntheticTrainBatches(
            self.source,
            seed=self.seed,
            batch_size=self.batch_size,
            start=start,
            stop=stop,
            rank=rank,
            world_size=world_size,
        )

    def val_batches(self, max_tokens: int | None) -> SyntheticEvalBatches:
        """Returns the validation set: sequences of the training length with `max_tokens` tokens in
        total, at least one; None: all.
        """
        length, count = self.source.length, self.source.num_eval
        if max_tokens is not None:
            count = min(count, max(1, max_tokens // length))
        return SyntheticEvalBatches(
            self.source, "val", lengths=(length,), count=count, batch_size=self.batch_size
        )

    def final_batches(self) -> SyntheticEvalBatches:
        """Returns the sets of the final metrics: of the training length, and of `test_lengths`."""
        lengths = dict.fromkeys((self.source.length, *self.source.test_lengths))
        return SyntheticEvalBatches(
            self.source,
            self.final_split,
            lengths=tuple(lengths),
            count=self.source.num_eval,
            batch_size=self.batch_size,
        )

    @property
    def tokens_per_batch(self) -> float:
        """Tokens read per batch, over all processes, on average."""
        lengths = self.source.train_lengths
        return self.batch_size * sum(lengths) / len(lengths)

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """Size of the vocabulary, as a tuple with one element."""
        return (self.tokenizer.vocab_size,)

    def describe(self) -> dict[str, Any]:
        """Returns the task and the format of its sequences, for the record of a run."""
        digest = hashlib.sha256()
        for tensor in self.val_batches(None)[0]:
            digest.update(tensor.numpy().tobytes())
        return {
            "source": SYNTHETIC.name_of(type(self.source)),
            "licence": "none needed",
            "tokens": self.tokenizer.vocab_size,
            "sha256": digest.hexdigest(),
        }
