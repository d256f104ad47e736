"""The token stream of a split in a file: tokenised once, then mapped into memory.

The stream has one end-of-document token *between* documents, and none after the last: a split with
one document is exactly its text. A store consists of `<split>.bin` with the ids, and `<split>.json`
with the counts, which is written last and marks the store as complete.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from attnkit.data.batch import Tokens
from attnkit.data.byte_progress import ByteProgress
from attnkit.data.sources.base import Piece, Source, TextSource, TokenSource
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.errors import DataError
from attnkit.storage.files import atomic_write, cache_folder, locked, parse_json

FORMAT = 2
"""Version of the file format; files of other versions are ignored."""

SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""Number and size of the blocks that a digest covers: all of a file of up to 4 MiB, and samples of
a larger one, within milliseconds.
"""

SPELLING_SYMBOLS = 257
"""Symbols that spell an unknown word: 256 bytes and an end."""

BATCH_CHARACTERS = 1 << 22
"""Characters that are tokenised at a time: enough for all cores, small enough for memory."""


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """The counts of a store.

    Attributes:
        tokens: ids in the stream, including those between documents.
        unknown: number of ids that stand for text outside the vocabulary.
        characters: code points of the text; None if there are only tokens.
        bytes: bytes of the text in UTF-8; None if there are only tokens.
        documents: documents of the split; None if unknown.
        dtype: numpy's name of the ids' type, `uint16` or `uint32`.
        source: fingerprint of the source.
        tokenizer: fingerprint of the tokenizer.
    """

    tokens: int
    unknown: int
    characters: int | None
    bytes: int | None
    documents: int | None
    dtype: str
    source: str
    tokenizer: str


@dataclass(frozen=True)
class TokenStore:
    """The token stream of a split, on disk.

    Cheap to send to another process: each process maps the ids itself on first use.

    Attributes:
        path: the file with the ids.
        counts: its counts.
        unknown_bytes: bytes of the text that unknown tokens stand for.
    """

    path: Path
    counts: TokenCounts
    unknown_bytes: int = 0

    @cached_property
    def tokens(self) -> Tokens:
        """(N,) token ids, read-only, mapped from the file."""
        # A plain view: indexing numpy's memmap class is five times slower.
        return np.memmap(self.path, self.counts.dtype, mode="r").view(np.ndarray)

    def __getstate__(self) -> dict[str, Any]:
        # The mapped ids would be copied as a whole into a worker process.
        return {
            "path": self.path,
            "counts": self.counts,
            "unknown_bytes": self.unknown_bytes,
        }

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that stand for text outside the vocabulary."""
        return self.counts.unknown / self.counts.tokens

    def bits_per_byte(self, loss: float) -> float | None:
        """Converts a loss in nats per token to bits per byte of text; None without text.

        The text of an unknown token is charged as well: 8.006 bits for each byte and an end, all
        equally likely. Otherwise a smaller vocabulary would always look better.
        """
        if self.counts.bytes is None:
            return None
        spelt = (self.unknown_bytes + self.counts.unknown) * math.log2(SPELLING_SYMBOLS)
        return (loss / math.log(2) * self.counts.tokens + spelt) / self.counts.bytes


def token_store(source: Source, tokenizer: Tokenizer, split: str) -> TokenStore:
    """Returns the token stream of a split; of text from the cache, after adding it if necessary.

    Raises:
        DataError: if the data is missing or invalid, the cache is not writable, or a file in it is
            damaged.
    """
    if isinstance(source, TokenSource):
        return source.store(split, tokenizer)
    assert isinstance(source, TextSource)
    key = f"{FORMAT} {source.fingerprint()} {tokenizer.fingerprint()}"
    folder = cache_folder("tokens", hashlib.sha256(key.encode()).hexdigest()[:32])
    path = folder / f"{split}.bin"
    with locked(path):
        if not path.with_suffix(".json").is_file():
            _build(path, source, tokenizer, split)
    return _open(path)


def _open(path: Path) -> TokenStore:
    about = path.with_suffix(".json")
    try:
        known = parse_json(about.read_bytes())
        counts = TokenCounts(**known["counts"])
        size, digest = path.stat().st_size, sampled_digest(path)
        store = TokenStore(path, counts, int(known["unknown_bytes"]))
        expected = known["sampled_sha256"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{about} is damaged; delete {path.parent} to create it again") from error
    if size != counts.tokens * np.dtype(counts.dtype).itemsize:
        raise DataError(
            f"{path} is {size} bytes long instead of {counts.tokens} tokens of "
            f"{counts.dtype}; delete {path.parent} to create it again"
        )
    if digest != expected:
        raise DataError(
            f"{path} is damaged (its digest differs); delete {path.parent} to create it again"
        )
    return store


def sampled_digest(path: Path) -> str:
    """Returns a sha256 of a file's size and of evenly spread blocks, including both ends."""
    size = path.stat().st_size
    last = max(size - SAMPLE_BYTES, 0)
    count = min(SAMPLES, -(-size // SAMPLE_BYTES))
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(count):
            file.seek(i * last // max(count - 1, 1))
            found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()


def _build(path: Path, source: TextSource, tokenizer: Tokenizer, split: str) -> None:
    with (
        ByteProgress(f"tokenising {split}", source.num_bytes(split)) as progress,
        atomic_write(path) as file,
    ):
        counts, unknown_bytes = _write_stream(file, source, tokenizer, split, progress)
    about = {
        "counts": asdict(counts),
        "unknown_bytes": unknown_bytes,
        "sampled_sha256": sampled_digest(path),
    }
    with atomic_write(path.with_suffix(".json")) as file:
        file.write(json.dumps(about).encode())


def _write_stream(
    file: BinaryIO,
    source: TextSource,
    tokenizer: Tokenizer,
    split: str,
    progress: ByteProgress,
) -> tuple[TokenCounts, int]:
    """Writes the ids; returns their counts, and the bytes that unknown ones stand for."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    separator = np.array([tokenizer.end_of_document_id], dtype)
    tokens = characters = num_bytes = documents = 0
    used = np.zeros(tokenizer.vocab_size, np.int64)  # number of occurrences of each token
    document_ended = False
    for pieces in _batches(source.pieces(split)):
        encoded = tokenizer.encode_batch([piece.text for piece in pieces])
        for piece, ids in zip(pieces, encoded, strict=True):
            if document_ended:
                file.write(separator.tobytes())
                tokens += 1
            file.write(ids.astype(dtype).tobytes())
            document_ended = piece.ends_document
            documents += document_ended
            tokens += len(ids)
            characters += len(piece.text)
            size = len(piece.text.encode())
            num_bytes += size
            if tokenizer.unknown_id is not None:
                used += np.bincount(ids, minlength=len(used))
            progress.advance(size)
    unknown = 0 if tokenizer.unknown_id is None else int(used[tokenizer.unknown_id])
    counts = TokenCounts(
        tokens=tokens,
        unknown=unknown,
        characters=characters,
        bytes=num_bytes,
        documents=documents,
        dtype=dtype.name,
        source=source.fingerprint(),
        tokenizer=tokenizer.fingerprint(),
    )
    return counts, _unknown_bytes(tokenizer, used, num_bytes) if unknown else 0


def _unknown_bytes(tokenizer: Tokenizer, used: np.ndarray, num_bytes: int) -> int:
    """Returns the bytes of a text minus those of its known tokens."""
    known = [i for i in np.flatnonzero(used).tolist() if i != tokenizer.unknown_id]
    spelt = sum(int(used[i]) * len(tokenizer.decode([i]).encode()) for i in known)
    return max(num_bytes - spelt, int(used[tokenizer.unknown_id]))


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
