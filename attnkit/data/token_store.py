"""A split as one stream of token ids in a file: tokenised once, mapped into memory ever after.

The stream is the documents of the split with one end-of-document token *between* them, and none
behind the last: a split of one document is exactly its text. Two files make a store: `<split>.bin`
with the ids, and `<split>.json` with the counts, which is written last and so means "complete".
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
from attnkit.data.storage import atomic_write, cache_folder, locked
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.errors import DataError

FORMAT = 2
"""Number of the form of the files; those of another form are left alone."""

SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""Blocks of a file that its digest is made from, and the size of each: the whole of a file of up to
4 MiB, and so much of a larger one, which takes milliseconds whatever its size.
"""

SPELLING_SYMBOLS = 257
"""What an unknown word is spelt with: 256 bytes, and an end."""

BATCH_CHARACTERS = 1 << 22
"""Text that is tokenised at a time; enough for all cores, little enough for any memory."""


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """What a store holds.

    Attributes:
        tokens: ids in the stream, the ones between documents included.
        unknown: how many of them stand for what the vocabulary does not have.
        characters: code points of the text; None where there is no text, only its tokens.
        bytes: bytes of the text in UTF-8; None likewise.
        documents: documents of the split; None where nobody counted them.
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

    Cheap to hand to another process: the ids are mapped, when they are first asked for, by each
    process itself.

    Attributes:
        path: the file with the ids.
        counts: what it holds.
        unknown_bytes: bytes of the text that unknown tokens stand for.
    """

    path: Path
    counts: TokenCounts
    unknown_bytes: int = 0

    @cached_property
    def tokens(self) -> Tokens:
        """(N,) token ids, read-only, mapped from the file."""
        # A plain view: numpy's own memmap class makes every look-up five times slower.
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
        """Share of the tokens that stand for what the vocabulary does not have."""
        return self.counts.unknown / self.counts.tokens

    def bits_per_byte(self, loss: float) -> float | None:
        """Bits that a byte of the text takes if its tokens take `loss` nats each; None where there
        is no text.

        What an unknown token stands for is spelt as well, each byte and an end being as likely as
        any: 8.006 bits. Without it a vocabulary would be the better, the fewer words it knew.
        """
        if self.counts.bytes is None:
            return None
        spelt = (self.unknown_bytes + self.counts.unknown) * math.log2(SPELLING_SYMBOLS)
        return (loss / math.log(2) * self.counts.tokens + spelt) / self.counts.bytes


def token_store(source: Source, tokenizer: Tokenizer, split: str) -> TokenStore:
    """Returns the token stream of a split: of text from the cache, where it is made first if it is
    not there.

    Raises:
        DataError: if the data is missing or bad, the cache is not writable, or a file in it is
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
        known = json.loads(about.read_bytes())
        counts = TokenCounts(**known["counts"])
        size, digest = path.stat().st_size, sampled_digest(path)
        store = TokenStore(path, counts, int(known["unknown_bytes"]))
        expected = known["sampled_sha256"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{about} is damaged; delete {path.parent}, it is made again") from error
    if size != counts.tokens * np.dtype(counts.dtype).itemsize:
        raise DataError(
            f"{path} is {size} bytes long and should hold {counts.tokens} tokens of "
            f"{counts.dtype}; delete {path.parent}, it is made again"
        )
    if digest != expected:
        raise DataError(
            f"{path} is damaged (its digest differs); delete {path.parent}, it is made again"
        )
    return store


def sampled_digest(path: Path) -> str:
    """A sha256 over the size of a file and blocks of it, evenly spread, both ends among them."""
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
    """Writes the ids; returns what they are, and the bytes that unknown ones stand for."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    separator = np.array([tokenizer.end_of_document_id], dtype)
    tokens = characters = num_bytes = documents = 0
    used = np.zeros(tokenizer.vocab_size, np.int64)  # how often each token was
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
    """What is left of a text's bytes without those of the tokens that are known."""
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
