"""A split of utterances as features and token ids; features are computed once and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnkit.data.byte_progress import ByteProgress
from attnkit.data.pair_store import PairStore, keep_usable
from attnkit.data.pairs.base import Pair
from attnkit.data.sound.formants import Span
from attnkit.data.sound.log_mel import FEATURES, log_mel
from attnkit.data.speech.base import SpeechSource, Utterance
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.errors import DataError
from attnkit.storage.files import atomic_write, cache_folder, locked

FORMAT = 1
"""Version of features and files; files of other versions are ignored."""


@dataclass(frozen=True, eq=False)
class SpeechStore(PairStore):
    """Utterances as features (S, F) each, without an end, and token ids of their texts.

    Attributes:
        words: start and end of each word in seconds; None: unknown.
        utterances: the sounds, if available; empty: `SpeechSource.utterance` reads them.
    """

    words: Sequence[tuple[Span, ...] | None] = ()
    utterances: Sequence[Utterance] = ()

    def pad_sources(self, rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        return padded_features(rows)


@dataclass(frozen=True)
class Sounds:
    """The sounds of a split: features (S, F) float16, and the word times of each."""

    features: Sequence[np.ndarray]
    words: Sequence[tuple[Span, ...] | None]


def padded_features(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Pads features (S, F) each with zeros; returns (N, S, F) float32, and `keep` (N, S)."""
    lengths = torch.tensor([len(row) for row in rows])
    source = np.zeros((len(rows), int(lengths.max()), rows[0].shape[1]), np.float32)
    for i, row in enumerate(rows):
        source[i, : len(row)] = row
    return torch.from_numpy(source), torch.arange(source.shape[1]) < lengths[:, None]


def speech_store(
    pairs: Sequence[Pair],
    sounds: Sounds,
    tokenizer: Tokenizer,
    *,
    split: str,
    max_seq_len: int,
    keep_all: bool = False,
) -> SpeechStore:
    """Tokenises texts and drops unusable utterances.

    Args:
        pairs: name and text of each utterance.
        sounds: their sounds.
        tokenizer: tokenizer of the texts.
        split: its name, for messages.
        max_seq_len: longest sound in positions, or text in tokens, including its end token.
        keep_all: truncate instead of dropping.

    Raises:
        DataError: if none is left.
    """
    usable = keep_usable(
        pairs,
        sounds.features,
        tokenizer.encode_batch([pair.target for pair in pairs]),
        split=split,
        max_seq_len=max_seq_len,
        max_ratio=None,
        keep_all=keep_all,
    )
    end = tokenizer.end_of_document_id
    return SpeechStore(
        pairs=[pairs[i] for i in usable.members],
        sources=usable.sources,
        targets=[row.astype(np.int32) for row in usable.targets],
        source_lengths=np.array([len(row) for row in usable.sources]),
        target_lengths=np.array([len(row) + 1 for row in usable.targets]),
        ends=(end, end),
        dropped=usable.dropped,
        words=[sounds.words[i] for i in usable.members],
    )


def sounds_of(source: SpeechSource, split: str) -> Sounds:
    """Returns the sounds of a split from the cache, after adding them if necessary.

    Raises:
        DataError: if the data is missing or invalid, or a file of the cache is damaged.
    """
    key = hashlib.sha256(f"{FORMAT} {source.fingerprint()}".encode()).hexdigest()[:32]
    path = cache_folder("speech", key) / f"{split}.npz"
    with locked(path):
        if not path.is_file():
            _build(path, source, split)
    return _open(path)


def _build(path: Path, source: SpeechSource, split: str) -> None:
    total = sum(1 for _ in source.pairs(split))
    rows, words = [], []
    with ByteProgress(f"computing features of {split}", 0) as progress:
        for utterance in source.utterances(split):
            rows.append(log_mel(utterance.samples).astype(np.float16))
            words.append(utterance.words)
            progress.total = len(rows[0]) * total * 2 * FEATURES
            progress.advance(rows[-1].nbytes)
    lengths = np.array([len(row) for row in rows], np.int64)
    features = np.concatenate(rows) if rows else np.zeros((0, FEATURES), np.float16)
    with atomic_write(path) as file:
        np.savez(file, features=features, lengths=lengths, words=np.array(json.dumps(words)))


def _open(path: Path) -> Sounds:
    try:
        with path.open("rb") as file, np.load(file) as found:
            features, lengths = found["features"], found["lengths"]
            words = json.loads(str(found["words"]))
        rows = np.split(features, np.cumsum(lengths)[:-1]) if len(lengths) else []
        spans = [None if one is None else tuple(map(tuple, one)) for one in words]
    except Exception as error:
        raise DataError(f"{path} is damaged; delete it to create it again") from error
    return Sounds(rows, spans)
