"""Token shards: the `.bin` files in which FineWeb is distributed for training GPT-2.

A file consists of a header of 256 int32 (magic number, version, number of tokens, zeros), then the
tokens as uint16, all little-endian. This is the format of llm.c
(https://github.com/karpathy/llm.c, `dev/data`).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnkit.data.batch import Tokens
from attnkit.data.lookup import files_of
from attnkit.data.sources.base import Part, TokenSource
from attnkit.data.token_store import SAMPLE_BYTES, TokenCounts, TokenStore, sampled_digest
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.errors import DataError
from attnkit.registry import SOURCES
from attnkit.storage.files import cache_folder

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
TOKEN = np.dtype("<u2")
DTYPE_TOKENS = 1 << 16
"""From this size on a vocabulary contains every uint16."""


class Shard(NamedTuple):
    """The tokens `start` to `stop` of a file."""

    path: Path
    start: int
    stop: int


@SOURCES.register("token_shards")
class TokenShards(TokenSource):
    """Tokens in `.bin` shards, as FineWeb is distributed for GPT-2: many files, read as one stream.

    A file is 256 int32 (magic 20240520, version 1, number of tokens), then uint16 tokens. Files are
    mapped into memory and never read as a whole: the digest in a run's record covers samples of
    each, and a token beyond the vocabulary is reported when it is read. Bits per byte are not
    available, since there is no text.

    Needs `tokenizer: {name: given}`. Its token between documents is at the beginning of each
    document; the `document` mask assigns it to the previous one.

    Args:
        train: a path or pattern (`fineweb10B/fineweb_train_*.bin`) or a list of them, relative to
            the recipe or the working directory. The files of a pattern are sorted by name.
        val: the same for validation.
    """

    _part: Part = "all"

    def __init__(self, *, train: Path | list[Path], val: Path | list[Path]) -> None:
        self.train = train
        self.val = val

    def half(self, part: Part) -> TokenShards:
        half = TokenShards(train=self.train, val=self.val)
        half._part = part
        return half

    def fingerprint(self) -> str:
        digests = {
            split: [self._digests[shard.path] for shard in shards]
            for split, shards in self._shards.items()
        }
        key = json.dumps([self._part, digests], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        files = [
            {"path": str(path), "bytes": path.stat().st_size, "sampled_sha256": digest}
            for path, digest in self._digests.items()
        ]
        return {
            "source": "own shards of tokens",
            "licence": "the user's own",
            "files": files,
            "bytes": sum(file["bytes"] for file in files),
            "sha256": self.fingerprint(),
            **({} if self._part == "all" else {"part": self._part}),
        }

    def store(self, split: str, tokenizer: Tokenizer) -> ShardStore:
        """Opens the tokens of a split, and checks the first of each file."""
        self.check_split(split)
        shards = _part_of(self._shards[split], self._part)
        counts = TokenCounts(
            tokens=sum(shard.stop - shard.start for shard in shards),
            unknown=0,
            characters=None,
            bytes=None,
            documents=None,
            dtype=TOKEN.name,
            source=self.fingerprint(),
            tokenizer=tokenizer.fingerprint(),
        )
        key = hashlib.sha256(f"{counts.source} {counts.tokenizer}".encode()).hexdigest()[:32]
        path = cache_folder("tokens", key) / split  # derived values are stored beside it
        store = ShardStore(path, counts, shards=tuple(shards), vocab_size=tokenizer.vocab_size)
        for tokens, shard in zip(store.tokens.mapped, shards, strict=True):
            _check(tokens[: SAMPLE_BYTES // TOKEN.itemsize], shard.path, tokenizer.vocab_size)
        return store

    @cached_property
    def _digests(self) -> dict[Path, str]:
        paths = dict.fromkeys(shard.path for split in self.splits for shard in self._shards[split])
        return {path: sampled_digest(path) for path in paths}

    @cached_property
    def _shards(self) -> dict[str, list[Shard]]:
        named = {"train": self.train, "val": self.val}
        files = {split: files_of(named[split], f"data.{split}", ".bin") for split in self.splits}
        for path in files["val"]:
            if path in files["train"]:
                raise DataError(f"{path} is in both data.train and data.val; remove it from one")
        return {
            split: [Shard(path, 0, num_tokens(path)) for path in paths]
            for split, paths in files.items()
        }


@dataclass(frozen=True, kw_only=True)
class ShardStore(TokenStore):
    """The tokens of a split in shards; `path` is the place of derived values.

    Attributes:
        shards: the shards, in order.
        vocab_size: every token must be smaller.
    """

    shards: tuple[Shard, ...]
    vocab_size: int

    @cached_property
    def tokens(self) -> JoinedShards:
        """(N,) token ids, mapped from the files."""
        return JoinedShards(self.shards, self.vocab_size)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the mapped tokens, which each process maps itself."""
        return {name: value for name, value in vars(self).items() if name != "tokens"}


class JoinedShards(Tokens):
    """The tokens of several shards, concatenated.

    Args:
        shards: at least one.
        vocab_size: every token must be smaller.
    """

    def __init__(self, shards: Sequence[Shard], vocab_size: int) -> None:
        self.mapped = [
            np.memmap(shard.path, TOKEN, mode="r", offset=HEADER_BYTES).view(np.ndarray)[
                shard.start : shard.stop
            ]
            for shard in shards
        ]
        self._paths = [shard.path for shard in shards]
        self._ends = np.cumsum([len(tokens) for tokens in self.mapped])
        self._vocab_size = vocab_size

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self._ends[-1])

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        """Returns the tokens at some positions (from 0 to N - 1, any shape).

        Raises:
            DataError: if one of them is beyond the vocabulary.
        """
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        places = np.asarray(index)
        shards = np.searchsorted(self._ends, places, side="right")
        found = np.empty(places.shape, TOKEN)
        for number in np.unique(shards).tolist():
            here = shards == number
            tokens = self.mapped[number]
            found[here] = tokens[places[here] - (self._ends[number] - len(tokens))]
            _check(found[here], self._paths[number], self._vocab_size)
        return found


def num_tokens(path: Path) -> int:
    """Reads the header of a shard.

    Raises:
        DataError: if the file is not a shard, or its size does not match its header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    magic, version, count = struct.unpack_from("<3i", header.ljust(HEADER_BYTES, b"\0"))
    if len(header) < HEADER_BYTES or magic != MAGIC:
        raise DataError(
            f"{path} is not a shard of tokens: it should begin with 256 int32, the first of them "
            f"{MAGIC}; use files as llm.c writes them for GPT-2 (dev/data/fineweb.py)"
        )
    if version != VERSION:
        raise DataError(
            f"{path} is a shard of version {version}, but attnkit reads version {VERSION} "
            "(uint16 tokens); write it again in that version"
        )
    num_bytes = size - HEADER_BYTES
    if num_bytes != count * TOKEN.itemsize:
        fault = "is cut off" if num_bytes < count * TOKEN.itemsize else "is too long"
        raise DataError(
            f"{path} {fault}: its header declares {count:,} tokens of {TOKEN.itemsize} bytes, but "
            f"{num_bytes:,} bytes follow; download or write it again"
        )
    if count == 0:
        raise DataError(f"{path} has no tokens; remove it from the list")
    return count


def _check(tokens: np.ndarray, path: Path, vocab_size: int) -> None:
    if vocab_size < DTYPE_TOKENS and len(tokens) and (largest := tokens.max()) >= vocab_size:
        raise DataError(
            f"{path} contains the token {largest}, but tokenizer.vocab_size {vocab_size} ends at "
            f"{vocab_size - 1}; set it to the size of the vocabulary of the file"
        )


def _part_of(shards: Sequence[Shard], part: Part) -> list[Shard]:
    """Returns the shards of the first or the second half of all tokens."""
    total = sum(shard.stop for shard in shards)
    start, stop = {
        "all": (0, total), "first_half": (0, total // 2), "second_half": (total // 2, total)
    }[part]  # fmt: skip
    found, seen = [], 0
    for path, _, count in shards:
        inside = max(start - seen, 0), min(stop - seen, count)
        if inside[0] < inside[1]:
            found.append(Shard(path, *inside))
        seen += count
    return found
