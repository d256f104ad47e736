"""Data for language modeling: a source and a tokenizer, prepared once, served in batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnkit.data.batch import LanguageBatch
from attnkit.data.byte_progress import ByteProgress
from attnkit.data.ngrams import cached_floors
from attnkit.data.sources.base import Part, Source, TextSource
from attnkit.data.split_parts import part_of
from attnkit.data.task_data import TaskData
from attnkit.data.token_store import TokenStore, token_store
from attnkit.data.tokenizer_base import FILE_NAME, Tokenizer, load_tokenizer
from attnkit.data.windows import TrainBatches, ValBatches
from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS
from attnkit.storage.files import cache_folder, locked

NO_TEXT = (
    "the data consists of tokens, not of text to train a vocabulary on; set "
    "tokenizer={name: given, vocab_size: ...}"
)


class LanguageModelingData(TaskData):
    """A source and a tokenizer, served in batches. Reads nothing before `prepare`.

    Args:
        source: source of the text or its tokens.
        tokenizer: used unchanged if it is trained; otherwise `prepare` trains it.
        max_seq_len: tokens in a window.
        batch_size: windows per step over all processes.
        seed: seed of the run, 0 or more.
        val_max_tokens: size of a validation during training; kept for
            `val_batches(data.val_max_tokens)`.
        final_max_tokens: the same for the final validation.
        with_documents: number the documents in every batch, for masks that separate them.
        val_part: use only this half of the validation split; `all`: both.

    Attributes:
        train_store: the training split, after `prepare`.
        val_store: the validation split, after `prepare`.
    """

    train_store: TokenStore
    val_store: TokenStore

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        *,
        max_seq_len: int,
        batch_size: int,
        seed: int,
        val_max_tokens: int | None,
        with_documents: bool = False,
        final_max_tokens: int | None = None,
        val_part: Part = "all",
    ) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len
        self.batch_size = batch_size
        self.seed = seed
        self.val_max_tokens = val_max_tokens
        self.final_max_tokens = final_max_tokens
        self.with_documents = with_documents
        self.val_part: Part = val_part

    def prepare(self) -> None:
        """Creates vocabulary and token streams, or loads them from the cache.

        Several processes may call it at once: one works, the others wait.

        Raises:
            DataError: if the data is missing or invalid, or a split is shorter than one window.
        """
        if self.tokenizer.vocab_size == 0:
            if not isinstance(self.source, TextSource):
                raise DataError(f"tokenizer: {NO_TEXT}")
            self.tokenizer = trained_tokenizer(self.source, self.tokenizer)
        self.train_store = self._store("train", self.source)
        self.val_store = self._store("val", part_of(self.source, self.val_part))

    def train_batch(self, step: int, rank: int = 0, world_size: int = 1) -> LanguageBatch:
        """Returns this process's part of the batch of a step."""
        return self.train_batches(step, step + 1, rank, world_size)[0]

    def train_batches(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> TrainBatches:
        """Returns the batches of the steps `start` to `stop - 1`."""
        return TrainBatches(
            self.train_store,
            seed=self.seed,
            batch_size=self.batch_size,
            max_seq_len=self.max_seq_len,
            end_of_document_id=self._document_end,
            start=start,
            stop=stop,
            rank=rank,
            world_size=world_size,
        )

    def val_batches(self, max_tokens: int | None) -> ValBatches:
        """Returns the validation batches, of `max_tokens` tokens; None: of the whole split."""
        return ValBatches(
            self.val_store,
            batch_size=self.batch_size,
            max_seq_len=self.max_seq_len,
            end_of_document_id=self._document_end,
            max_tokens=max_tokens,
        )

    @property
    def tokens_per_batch(self) -> float:
        """Predicted tokens per batch, over all processes."""
        return self.batch_size * self.max_seq_len

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """Size of the vocabulary, as a tuple with one element."""
        return (self.tokenizer.vocab_size,)

    def save_vocabulary(self, directory: Path) -> None:
        """Writes the tokenizer to a run's directory."""
        self.tokenizer.save(directory)

    def floors(self) -> dict[int, float]:
        """Returns order -> validation loss of an n-gram model, in nats per token."""
        return cached_floors(self.train_store, self.val_store, self.tokenizer.vocab_size)

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the data, in plain types, for the record of a run."""
        return {
            "source": self.source.describe(),
            "tokenizer": {
                "name": TOKENIZERS.name_of(type(self.tokenizer)),
                **self.tokenizer.options(),
                "tokens": self.tokenizer.vocab_size,
                "sha256": self.tokenizer.fingerprint(),
            },
            "train": asdict(self.train_store.counts),
            "val": asdict(self.val_store.counts),
        }

    @property
    def _document_end(self) -> int | None:
        return self.tokenizer.end_of_document_id if self.with_documents else None

    def _store(self, split: str, source: Source) -> TokenStore:
        store = token_store(source, self.tokenizer, split)
        needed = self.max_seq_len + 1
        if store.counts.tokens < needed:
            raise DataError(
                f"the {split} split has {store.counts.tokens} tokens, but one window of "
                f"model.max_seq_len {self.max_seq_len} needs {needed}; add text, or set "
                "model.max_seq_len lower"
            )
        return store


def trained_tokenizer(source: TextSource, tokenizer: Tokenizer) -> Tokenizer:
    """Returns a copy of a tokenizer, trained on the training split only.

    The vocabulary is cached under the source's fingerprint and the options.

    Raises:
        DataError: if the data is missing or invalid.
    """
    kind = TOKENIZERS.name_of(type(tokenizer))
    key = json.dumps([kind, tokenizer.options(), source.fingerprint()], sort_keys=True)
    folder = cache_folder("tokenizers", hashlib.sha256(key.encode()).hexdigest()[:32])
    path = folder / FILE_NAME
    with locked(path):
        if not path.is_file():
            with ByteProgress(f"training {kind} vocabulary", source.num_bytes("train")) as progress:
                tokenizer.train(_counted(source, progress))
            if tokenizer.vocab_size == 0:
                raise DataError(
                    "the train split is empty, so that there is no text to train a vocabulary on; "
                    "add text (data)"
                )
            tokenizer.save(folder)
    return load_tokenizer(folder)


def _counted(source: TextSource, progress: ByteProgress) -> Iterator[str]:
    for piece in source.pieces("train"):
        yield piece.text
        progress.advance(len(piece.text.encode()))
    progress.finish("choosing its tokens")
