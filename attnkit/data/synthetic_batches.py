"""Batches of a synthetic task; the training batch of a step is a function of (seed, step).

The fingerprint of a sequence decides whether it belongs to training, validation or test, so that no
sequence is in two of them, however small the task. A quarter of all sequences is held out; training
batches reject and redraw them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.order import StepBatches, share_of
from attnkit.data.pair_batch import IGNORED
from attnkit.data.synthetic.base import SyntheticSource
from attnkit.errors import DataError

Split = Literal["train", "val", "test"]

EIGHTHS: dict[Split, range] = {"val": range(1), "test": range(1, 2), "train": range(2, 8)}
"""Fingerprints, modulo 8, of each split."""

HELD_OUT = 2**63
"""First key of the generator for validation (plus 1: test); seeds of runs are smaller."""

BLOCK = 64
"""Sequences of a held-out set that are drawn at a time."""

ROUNDS = 100
"""Number of draws after which a split counts as empty."""


class SyntheticBatch(NamedTuple):
    """Sequences and their answers.

    Attributes:
        tokens: (B, T) int64, the model's input.
        targets: (B, T) int64, the expected output after each token; -100 where there is no answer.
    """

    tokens: Tensor
    targets: Tensor


class SyntheticTrainBatches(StepBatches[SyntheticBatch]):
    """The training batches of the steps `start` to `stop`, for a DataLoader or by index.

    All sequences of a batch have the same length, which depends on the step.

    Args:
        source: the task.
        seed: seed of the run.
        batch_size: sequences per step over all processes.
        start: first step.
        stop: one past the last step.
        rank: number of this process.
        world_size: number of processes, each of which gets its part of the same global batch.

    Raises:
        DataError: if the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        source: SyntheticSource,
        *,
        seed: int,
        batch_size: int,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(start, stop)
        self.source = source
        self.seed = seed
        self.batch_size = batch_size
        self._mine = share_of(batch_size, rank, world_size)

    def batch(self, step: int) -> SyntheticBatch:
        """Returns this process's part of a step's batch."""
        numbers = KeyedRandom(self.seed, step)
        lengths = self.source.train_lengths
        length = lengths[int(numbers.below(len(lengths), 1)[0])]
        drawn = draw_split(self.source, "train", numbers, self.batch_size, length)
        return SyntheticBatch(*(torch.from_numpy(rows[self._mine]) for rows in drawn))


class SyntheticEvalBatches(Dataset[SyntheticBatch]):
    """Fixed sequences, independent of the run's seed.

    Args:
        source: the task.
        split: `val` or `test`.
        lengths: tokens per sequence, for each set.
        count: sequences per set.
        batch_size: sequences per batch; the last of a length may be smaller.
    """

    def __init__(
        self,
        source: SyntheticSource,
        split: Split,
        *,
        lengths: tuple[int, ...],
        count: int,
        batch_size: int,
    ) -> None:
        self.batches: list[SyntheticBatch] = []
        for length in lengths:
            blocks = [_block(source, split, length, i) for i in range(-(-count // BLOCK))]
            tokens, targets = (
                torch.from_numpy(np.concatenate(rows)[:count]).split(batch_size)
                for rows in zip(*blocks, strict=True)
            )
            self.batches += map(SyntheticBatch, tokens, targets)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def __getitem__(self, index: int) -> SyntheticBatch:
        """Returns batch `index`."""
        return self.batches[index]


def _block(
    source: SyntheticSource, split: Split, length: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns held-out sequences; a smaller set is a prefix of a larger one."""
    numbers = KeyedRandom(HELD_OUT + EIGHTHS[split].start, (length << 32) + number)
    return draw_split(source, split, numbers, BLOCK, length)


def draw_split(
    source: SyntheticSource, split: Split, numbers: KeyedRandom, count: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws sequences of one split: (N, T) tokens and answers.

    Raises:
        DataError: if the task has too few sequences of this length to separate the splits.
    """
    eighths = EIGHTHS[split]
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    missing = count
    for _ in range(ROUNDS):
        num_draws = missing * 8 // len(eighths)
        drawn = source.draw(numbers, num_draws + num_draws // 16 + 8, length)
        place = fingerprints(drawn[0]) % np.uint64(8)
        mine = np.nonzero((place >= eighths.start) & (place < eighths.stop))[0][:missing]
        kept.append((drawn[0][mine], drawn[1][mine]))
        missing -= len(mine)
        if not missing:
            tokens, answers = (np.concatenate(rows) for rows in zip(*kept, strict=True))
            return tokens, answers
    raise DataError(
        f"there are too few different sequences of {length} tokens to separate training, "
        "validation and test; make them longer (data.length, data.min_length, "
        "data.test_lengths) or enlarge the vocabulary"
    )


def answer_sums(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns sums over the answers of some sequences: loss in nats, right answers, answers,
    sequences with only right answers, sequences.

    Args:
        logits: (B, T, V), the model's output.
        targets: (B, T), the expected tokens; -100 where there is no answer.
    """
    scored = targets != IGNORED
    right = (logits.argmax(dim=-1) == targets) & scored
    whole = (right | ~scored).all(dim=1)
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    counts = (loss, right.sum(), scored.sum(), whole.sum(), torch.ones_like(whole).sum())
    return torch.stack([count.float() for count in counts])


def means(sums: list[Tensor]) -> dict[str, float]:
    """Returns the metrics of all sequences, from the `answer_sums` of each batch."""
    total = torch.stack(sums).cpu().double().sum(dim=0)
    loss, right, asked, whole, sequences = total.tolist()
    return {"loss": loss / asked, "accuracy": right / asked, "exact_match": whole / sequences}


def fingerprints(tokens: np.ndarray) -> np.ndarray:
    """Returns a 64-bit hash of the tokens of each sequence (N, T)."""
    weights = KeyedRandom(HELD_OUT + 2, tokens.shape[1]).odd(tokens.shape[1])
    mixed = tokens.astype(np.uint64) @ weights
    # The finaliser of splitmix64 (Steele et al. 2014): each bit of a sum affects each of the
    # result.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
