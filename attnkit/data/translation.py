"""Data for translation: pairs and one or two tokenizers, prepared once, served in batches."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from attnkit.data.language_modeling import trained_tokenizer
from attnkit.data.pair_batches import PairTrainBatches, PairValBatches
from attnkit.data.pair_store import PairStore, pair_store
from attnkit.data.pairs.base import PairSource, PairTexts
from attnkit.data.sources.base import Part
from attnkit.data.split_parts import half_of
from attnkit.data.task_data import TaskData
from attnkit.data.tokenizer_base import FILE_NAME, Tokenizer, load_tokenizer
from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS

log = logging.getLogger("attnkit")

TARGET_FOLDER = "target_tokenizer"
"""Folder in a run's directory for the target's own vocabulary, if it has one."""


class TranslationData(TaskData):
    """A source of pairs and its vocabulary, served in batches. Reads nothing before `prepare`.

    Args:
        source: source of the pairs.
        tokenizer: tokenizer of both sides, or of the source only if there is a `target_tokenizer`.
        target_tokenizer: tokenizer of the target; None: both sides share one vocabulary.
        max_seq_len: longest source or target in tokens; longer training pairs are dropped.
        max_ratio: drop pairs with a larger ratio of the two lengths.
        batch_tokens: largest number of tokens of either side of a batch.
        seed: seed of the run.
        val_max_tokens: target tokens of a validation during training.
        final_max_tokens: the same for the final loss; None: all.
        val_part: use only this half of the validation pairs; `all`: both.

    Attributes:
        train_store: the training pairs, after `prepare`.
        val_store: the validation pairs, after `prepare`.
        tokenizers: tokenizers of source and target, after `prepare`.
    """

    train_store: PairStore
    val_store: PairStore

    joint_sides: ClassVar[tuple[str, ...]] = ("source", "target")
    """The sides whose texts a joint vocabulary is trained on."""

    def __init__(
        self,
        source: PairSource,
        tokenizer: Tokenizer,
        target_tokenizer: Tokenizer | None,
        *,
        max_seq_len: int,
        max_ratio: float | None,
        batch_tokens: int,
        seed: int,
        val_max_tokens: int | None,
        final_max_tokens: int | None = None,
        val_part: Part = "all",
    ) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.target_tokenizer = target_tokenizer
        self.max_seq_len = max_seq_len
        self.max_ratio = max_ratio
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.val_max_tokens = val_max_tokens
        self.final_max_tokens = final_max_tokens
        self.val_part: Part = val_part
        self._tests: dict[str, PairStore] = {}

    @property
    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """The tokenizers of source and target; the same one if they share a vocabulary."""
        return self.tokenizer, self.target_tokenizer or self.tokenizer

    def prepare(self) -> None:
        """Creates or loads the vocabularies, and tokenises training and validation pairs.

        Raises:
            DataError: if the data is missing or invalid, or a split has no usable pair.
        """
        joint = self.target_tokenizer is None
        sides = self.joint_sides if joint else ("source",)
        if self.tokenizer.vocab_size == 0:
            self.tokenizer = trained_tokenizer(PairTexts(self.source, sides), self.tokenizer)
        if self.target_tokenizer is not None and self.target_tokenizer.vocab_size == 0:
            texts = PairTexts(self.source, ("target",))
            self.target_tokenizer = trained_tokenizer(texts, self.target_tokenizer)
        self.train_store = self._store("train")
        self.val_store = self._store("val")
        self.train_batches(0, 1)  # reports a pair that fits into no batch

    def _store(self, split: str) -> PairStore:
        store = self.make_store(split, self.val_part if split == "val" else "all")
        dropped = store.dropped
        if dropped.total:
            log.warning(
                "%s: %s of %s pairs dropped (%s empty, %s longer than %s tokens, %s lopsided)",
                split,
                f"{dropped.total:,}",
                f"{dropped.total + len(store):,}",
                f"{dropped.empty:,}",
                f"{dropped.too_long:,}",
                self.max_seq_len,
                f"{dropped.lopsided:,}",
            )
        return store

    def test_store(self, split: str) -> PairStore:
        """Returns a test split; long sentences are truncated, none are dropped."""
        if split not in self._tests:
            self._tests[split] = self.make_store(split, keep_all=True)
        return self._tests[split]

    def make_store(self, split: str, part: Part = "all", *, keep_all: bool = False) -> PairStore:
        """Reads a split, or one half of it.

        Args:
            split: its name.
            part: which half; `all`: both.
            keep_all: truncate long sentences, and drop none.

        Raises:
            DataError: if it is missing or empty, or has no usable pair.
        """
        pairs = half_of(list(self.source.pairs(split)), part)
        if not pairs:
            raise DataError(f"the {split} split is empty")
        return pair_store(
            pairs,
            self.tokenizers,
            split=split,
            max_seq_len=self.max_seq_len,
            max_ratio=None if keep_all else self.max_ratio,
            keep_all=keep_all,
        )

    def train_batches(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> PairTrainBatches:
        """Returns the batches of the steps `start` to `stop - 1`."""
        return PairTrainBatches(
            self.train_store,
            seed=self.seed,
            batch_tokens=self.batch_tokens,
            start=start,
            stop=stop,
            rank=rank,
            world_size=world_size,
        )

    def val_batches(self, max_tokens: int | None) -> PairValBatches:
        """Returns the validation batches, of `max_tokens` target tokens, or of all for None."""
        return PairValBatches(self.val_store, batch_tokens=self.batch_tokens, max_tokens=max_tokens)

    @property
    def tokens_per_batch(self) -> float:
        """Target tokens per batch, over all processes, averaged over an epoch."""
        batches = self.train_batches(0, 1)
        return int(self.train_store.target_lengths.sum()) / batches.num_per_epoch

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """Sizes of the target's vocabulary and, if it has its own, the source's."""
        source, target = self.tokenizers
        if self.target_tokenizer is None:
            return (target.vocab_size,)
        return target.vocab_size, source.vocab_size

    def save_vocabulary(self, directory: Path) -> None:
        """Writes the tokenizers to a run's directory."""
        self.tokenizer.save(directory)
        if self.target_tokenizer is not None:
            folder = directory / TARGET_FOLDER
            folder.mkdir(exist_ok=True)
            self.target_tokenizer.save(folder)

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the data, in plain types, for the record of a run."""
        named = {"tokenizer": self.tokenizer, "target_tokenizer": self.target_tokenizer}
        stores = {"train": self.train_store, "val": self.val_store}
        batches = self.train_batches(0, 1)
        return {
            "source": self.source.describe(),
            **{name: _about(found) for name, found in named.items() if found is not None},
            **{
                split: {
                    "pairs": len(store),
                    "source_tokens": int(store.source_lengths.sum()),
                    "target_tokens": int(store.target_lengths.sum()),
                    "dropped": asdict(store.dropped),
                }
                for split, store in stores.items()
            },
            "batches_per_epoch": batches.num_per_epoch,
        }


def load_vocabularies(directory: Path, *, separate: bool) -> tuple[Tokenizer, Tokenizer]:
    """Reads the tokenizers of source and target from a run's directory.

    Args:
        directory: the run.
        separate: True if the target has its own vocabulary.

    Raises:
        DataError: if one is missing or damaged.
    """
    source = load_tokenizer(directory)
    if not separate:
        return source, source
    if not (directory / TARGET_FOLDER / FILE_NAME).is_file():
        raise DataError(
            f"{directory / TARGET_FOLDER / FILE_NAME} is missing; restore it or train again"
        )
    return source, load_tokenizer(directory / TARGET_FOLDER)


def _about(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "name": TOKENIZERS.name_of(type(tokenizer)),
        **tokenizer.options(),
        "tokens": tokenizer.vocab_size,
        "sha256": tokenizer.fingerprint(),
    }
