"""A split as one stream of token ids in a file: tokenised once, mapped into memory ever after.

The stream is the documents of the split with one end-of-document token *between* them, and none
behind the last: a split of one document is exactly its text. Two files make a store: `<split>.bin`
with the ids, and `<split>.json` with the counts, which is written last and so means "complete".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from attnkit.data.cache import atomic_write, cache_folder, locked
from attnkit.data.errors import DataError
from attnkit.data.progress import ByteProgress
from attnkit.data.sources.base import Piece, TextSource
from attnkit.data.tokenizer_base import Tokenizer

BATCH_CHARACTERS = 1 << 22
"""Text that is tokenised at a time; enough for all cores, little enough for any memory."""


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """What a store holds.

    Attributes:
        tokens: ids in the stream, the ones between documents included.
        unknown: how many of them stand for what the vocabulary does not have.
        characters: code points of the text.
        bytes: bytes of the text in UTF-8.
        documents: documents of the split.
        dtype: numpy's name of the ids' type, `uint16` or `uint32`.
        source: fingerprint of the source.
        tokenizer: fingerprint of the tokenizer.
    """

    tokens: int
    unknown: int
    characters: int
    bytes: int
    documents: int
    dtype: str
    source: str
    tokenizer: str


@dataclass(frozen=True)
class TokenStore:
    """The token stream of a split, on disk.

    Cheap to hand to another process: the ids are mapped, when they are first asked for, by each
    process itself.

    Attributes:
        path: the file with the ids.
        counts: what it holds.
    """

    path: Path
    counts: TokenCounts

    @cached_property
    def tokens(self) -> np.ndarray:
        """(N,) token ids, read-only, mapped from the file."""
        # A plain view: numpy's own memmap class makes every look-up five times slower.
        return np.memmap(self.path, self.counts.dtype, mode="r").view(np.ndarray)

    def __getstate__(self) -> dict[str, Any]:
        # The mapped ids would be copied as a whole into a worker process.
        return {"path": self.path, "counts": self.counts}


def token_store(source: TextSource, tokenizer: Tokenizer, split: str) -> TokenStore:
    """Returns the token stream of a split from the cache; makes it first if it is not there.

    Raises:
        DataError: if the data is missing or bad, the cache is not writable, or a file in it is
            damaged.
    """
    key = f"{source.fingerprint()} {tokenizer.fingerprint()}"
    folder = cache_folder("tokens", hashlib.sha256(key.encode()).hexdigest()[:32])
    path = folder / f"{split}.bin"
    with locked(path):
        if not path.with_suffix(".json").is_file():
            _build(path, source, tokenizer, split)
    return _open(path)


def _open(path: Path) -> TokenStore:
    about = path.with_suffix(".json")
    try:
        counts = TokenCounts(**json.loads(about.read_bytes()))
        intact = path.stat().st_size == counts.tokens * np.dtype(counts.dtype).itemsize
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{about} is damaged; delete {path.parent}, it is made again") from error
    if not intact:
        raise DataError(
            f"{path} is {path.stat().st_size} bytes long and should hold {counts.tokens} tokens of "
            f"{counts.dtype}; delete {path.parent}, it is made again"
        )
    return TokenStore(path, counts)


def _build(path: Path, source: TextSource, tokenizer: Tokenizer, split: str) -> None:
    with (
        ByteProgress(f"tokenising {split}", source.num_bytes(split)) as progress,
        atomic_write(path) as file,
    ):
        counts = _write_stream(file, source, tokenizer, split, progress)
    with atomic_write(path.with_suffix(".json")) as file:
        file.write(json.dumps(asdict(counts)).encode())


def _write_stream(
    file: BinaryIO,
    source: TextSource,
    tokenizer: Tokenizer,
    split: str,
    progress: ByteProgress,
) -> TokenCounts:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    separator = np.array([tokenizer.end_of_document_id], dtype)
    tokens = unknown = characters = num_bytes = documents = 0
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
                unknown += int((ids == tokenizer.unknown_id).sum())
            progress.advance(size)
    return TokenCounts(
        tokens=tokens,
        unknown=unknown,
        characters=characters,
        bytes=num_bytes,
        documents=documents,
        dtype=dtype.name,
        source=source.fingerprint(),
        tokenizer=tokenizer.fingerprint(),
    )


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
