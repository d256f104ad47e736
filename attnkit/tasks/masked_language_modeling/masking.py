"""Text with gaps: which tokens are to be predicted, and what replaces them (BERT, Devlin et al.
2019, arXiv:1810.04805, section 3.1).

Shape letters: `B` windows in the batch, `T` tokens in a window, `N` of them to be predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attnkit.data.batch import LanguageBatch
from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.language_modeling import LanguageModelingData
from attnkit.data.order import StepBatches, share_of
from attnkit.data.pair_batch import IGNORED
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.data.windows import TrainBatches, ValBatches

MASK = "<|mask|>"
"""Text of a gap, in the user's texts and in labels."""

_TRAIN, _VAL = 1 << 32, 1 << 33
"""Added to the first key of the numbers that draw gaps. No seed of a run is as large, so that they
are independent of the numbers that draw windows.
"""


class MaskedBatch(NamedTuple):
    """Windows of text with gaps.

    Attributes:
        tokens: (B, T) int64, what the model reads.
        targets: (B, T) int64, the token of the text where one is missing; otherwise -100.
        documents: (B, T) int64, as in `LanguageBatch`.
    """

    tokens: Tensor
    targets: Tensor
    documents: Tensor | None = None


@dataclass(frozen=True)
class Masking:
    """The options of gaps.

    Args:
        share: share of the tokens to predict, the same number in each window.
        masked: share of these that become the mask token.
        random: share of these that become a random token; the others are unchanged, so that a model
            must predict every token that it reads.
        vocab_size: size of the text's vocabulary; the mask token follows it.
    """

    share: float
    masked: float
    random: float
    vocab_size: int

    @property
    def mask_id(self) -> int:
        """Id of the mask token."""
        return self.vocab_size

    def count(self, length: int) -> int:
        """Returns N for a window of `length` tokens."""
        return max(1, round(self.share * length))

    def batch(self, batch: LanguageBatch, gaps: np.ndarray) -> MaskedBatch:
        """Returns a batch of text with gaps.

        Args:
            batch: windows of text, whose targets are not used.
            gaps: (B, 2, N) from `gaps`.
        """
        places, fillings = torch.from_numpy(gaps).unbind(1)
        text = batch.tokens
        targets = torch.full_like(text, IGNORED).scatter_(1, places, text.gather(1, places))
        read = torch.where(fillings < 0, text.gather(1, places), fillings)
        return MaskedBatch(text.scatter(1, places, read), targets, batch.documents)

    def gaps(self, numbers: KeyedRandom, rows: int, length: int) -> np.ndarray:
        """Draws the gaps of some windows: (rows, 2, N), their places and the tokens that are read
        there, -1 for the token of the text.
        """
        count = self.count(length)
        places = numbers.distinct(length, rows, count)
        chance = (numbers.bits(rows, count) >> np.uint64(11)) * 2.0**-53
        others = numbers.below(self.vocab_size, rows, count)
        kept = np.where(chance < self.masked + self.random, others, -1)
        return np.stack((places, np.where(chance < self.masked, self.mask_id, kept)), axis=1)


class MaskedTrainBatches(StepBatches[MaskedBatch]):
    """Training batches with gaps, which are drawn for each step from (seed, step).

    Args:
        text: the windows.
        masking: the options of gaps.
        mine: rows of the global batch for this process.
    """

    def __init__(self, text: TrainBatches, masking: Masking, mine: slice) -> None:
        super().__init__(text.start, text.stop)
        self.text = text
        self.masking = masking
        self.mine = mine

    def batch(self, step: int) -> MaskedBatch:
        """Returns this process's part of a step's batch."""
        numbers = KeyedRandom(_TRAIN + self.text.seed, step)
        gaps = self.masking.gaps(numbers, self.text.batch_size, self.text.max_seq_len)
        return self.masking.batch(self.text.batch(step), gaps[self.mine])


class MaskedValBatches(Dataset[MaskedBatch]):
    """Validation batches with gaps that depend only on the position of the window, so that all runs
    predict the same tokens.

    Args:
        text: the windows.
        masking: the options of gaps.
    """

    def __init__(self, text: ValBatches, masking: Masking) -> None:
        self.text = text
        self.masking = masking
        self.share = text.share

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.text)

    def __getitem__(self, index: int) -> MaskedBatch:
        """Returns batch number `index`."""
        batch, text = self.text[index], self.text
        starts = text.starts[index * text.batch_size :][: len(batch.tokens)]
        length = batch.tokens.shape[1]
        gaps = [self.masking.gaps(KeyedRandom(_VAL, int(start)), 1, length) for start in starts]
        return self.masking.batch(batch, np.concatenate(gaps))


class MaskedData(LanguageModelingData):
    """A text and a tokenizer as batches with gaps.

    Args:
        share: see `Masking`.
        masked: see `Masking`.
        random: see `Masking`.
        options: options of `LanguageModelingData`.
    """

    def __init__(self, *, share: float, masked: float, random: float, **options: Any) -> None:
        super().__init__(**options)
        self.shares = (share, masked, random)

    @property
    def masking(self) -> Masking:
        """The options of gaps, known after `prepare`."""
        return Masking(*self.shares, self.tokenizer.vocab_size)

    def train_batches(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> MaskedTrainBatches:
        """Returns the batches of the steps `start` to `stop - 1`."""
        text = super().train_batches(start, stop, rank, world_size)
        return MaskedTrainBatches(text, self.masking, share_of(self.batch_size, rank, world_size))

    def val_batches(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, max_tokens: int | None
    ) -> MaskedValBatches:
        """Returns the validation batches, of `max_tokens` tokens; None: of the whole split."""
        return MaskedValBatches(super().val_batches(max_tokens), self.masking)

    def val_text(self, max_tokens: int) -> ValBatches:
        """Returns validation batches without gaps."""
        return super().val_batches(max_tokens)

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """Size of the vocabulary, including the mask token at its end."""
        return (self.tokenizer.vocab_size + 1,)


def encode_with_gaps(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the token ids of a user's text, in which `<|mask|>` marks a gap."""
    # If words include the space before them, so does the missing one.
    alone = len(tokenizer.encode(" ").ids) + len(tokenizer.encode("a").ids)
    if len(tokenizer.encode(" a").ids) < alone:
        text = text.replace(f" {MASK}", MASK)
    first, *others = (tokenizer.encode(part).ids for part in text.split(MASK))
    return first + [token for ids in others for token in (tokenizer.vocab_size, *ids)]


def text_of(tokenizer: Tokenizer, token_id: int) -> str:
    """Returns the text of one token, for labels."""
    return MASK if token_id == tokenizer.vocab_size else tokenizer.token_text(token_id)


@torch.no_grad()
def pseudo_perplexity(
    model: Any, batches: ValBatches, mask_id: int, device: torch.device, rows: int
) -> float:
    """Returns exp of the mean of -log p(token | all others), with one token masked at a time
    (Salazar et al. 2020, arXiv:1910.14659): T forward passes for a window of T tokens.

    Args:
        model: in evaluation mode, on the device.
        batches: text without gaps.
        mask_id: the mask token.
        device: device of the model.
        rows: number of windows per forward pass.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for i in range(len(batches)):
        batch = batches[i]
        for n, text in enumerate(batch.tokens.to(device)):
            length = len(text)
            masked = text.expand(length, length).clone().fill_diagonal_(mask_id)
            documents = torch.zeros_like(masked)
            if batch.documents is not None:
                documents = batch.documents[n].to(device).expand(length, length)
            for first in range(0, length, rows):
                some = slice(first, first + rows)
                logits = model(masked[some], documents[some]).float()
                places = torch.arange(first, first + len(logits), device=device)
                own = logits[torch.arange(len(logits), device=device), places].log_softmax(-1)
                total -= own.gather(1, text[some, None]).sum().cpu().double()
            count += length
    return float((total / count).clamp(max=700.0).exp())
