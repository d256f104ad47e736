import hashlib
import math
import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnkit.data import token_store as module
from attnkit.data.sources.base import Piece, TextSource
from attnkit.data.token_store import TokenStore, token_store
from attnkit.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer
from attnkit.errors import DataError


class Documents(TextSource):
    """Fixed documents; fails behind the first `healthy` ones, counts how often it is read."""

    def __init__(self, *documents: str, healthy: int = 1000) -> None:
        self.texts = documents
        self.healthy = healthy
        self.reads = 0

    def documents(self, split: str) -> Iterator[str]:
        self.reads += 1
        for number, text in enumerate(self.texts):
            if number == self.healthy:
                raise ConnectionResetError("the disk went away")
            yield text

    def num_bytes(self, split: str) -> int:
        return sum(len(text.encode()) for text in self.texts)

    def fingerprint(self) -> str:
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {}


def files_in(cache: Path) -> list[str]:
    return sorted(
        path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_documents_are_separated_and_counted() -> None:
    store = token_store(Documents("ab", "ß", "c"), ByteTokenizer(), "train")
    assert store.tokens.tolist() == [97, 98, 256, 0xC3, 0x9F, 256, 99]
    counts = store.counts
    assert (counts.tokens, counts.characters, counts.bytes, counts.documents) == (7, 4, 5, 3)
    assert (counts.unknown, counts.dtype) == (0, "uint16")


def test_one_document_is_exactly_its_text() -> None:
    assert token_store(Documents("abc"), ByteTokenizer(), "val").tokens.tolist() == [97, 98, 99]


def test_pieces_of_a_document_are_joined_and_batches_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Pieces(Documents):
        def pieces(self, split: str) -> Iterator[Piece]:
            for text in self.texts:
                for place, letter in enumerate(text):
                    yield Piece(letter, ends_document=place == len(text) - 1)

    monkeypatch.setattr(module, "BATCH_CHARACTERS", 2)
    store = token_store(Pieces("abc", "de"), ByteTokenizer(), "train")
    assert store.tokens.tolist() == [97, 98, 99, 256, 100, 101]
    assert store.counts.documents == 2


def test_unknown_characters_are_counted() -> None:
    tokenizer = CharTokenizer()
    tokenizer.train(["ab"])
    assert token_store(Documents("a?b!", "?"), tokenizer, "val").counts.unknown == 3


def test_a_large_vocabulary_takes_four_bytes_a_token() -> None:
    tokenizer = CharTokenizer()
    text = "".join(map(chr, range(0x20000, 0x20000 + 70_000)))
    tokenizer.train([text])
    store = token_store(Documents(text), tokenizer, "train")
    assert store.counts.dtype == "uint32"
    assert np.array_equal(store.tokens, np.arange(70_000))


def test_the_second_time_nothing_is_read() -> None:
    source = Documents("ab", "c")
    first = token_store(source, ByteTokenizer(), "train")
    second = token_store(source, ByteTokenizer(), "train")
    assert source.reads == 1
    assert np.array_equal(first.tokens, second.tokens)
    assert first.counts == second.counts


def test_of_many_at_once_one_works_and_the_others_wait() -> None:
    source = Documents(*"abcdefgh" * 50)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(token_store, source, ByteTokenizer(), "train") for _ in range(8)]
        stores = [future.result() for future in futures]
    assert source.reads == 1
    assert all(store.tokens.size == 799 for store in stores)


def test_content_and_tokenizer_are_the_key() -> None:
    tokenizer = CharTokenizer()
    tokenizer.train(["abc"])
    paths = {
        token_store(Documents("ab"), ByteTokenizer(), "train").path,
        token_store(Documents("ac"), ByteTokenizer(), "train").path,
        token_store(Documents("ab"), tokenizer, "train").path,
        token_store(Documents("ab"), ByteTokenizer(), "val").path,
    }
    assert len(paths) == 4


def test_a_crash_leaves_nothing_and_the_next_call_starts_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 1)
    with pytest.raises(ConnectionResetError):
        token_store(Documents("ab", "c", healthy=1), ByteTokenizer(), "train")
    assert files_in(cache) == []
    store = token_store(Documents("ab", "c"), ByteTokenizer(), "train")
    assert store.tokens.tolist() == [97, 98, 256, 99]
    assert files_in(cache) == ["train.bin", "train.json"]


def test_a_crash_between_the_two_files_counts_as_not_done(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Documents("ab")
    store = token_store(source, ByteTokenizer(), "train")
    store.path.with_suffix(".json").unlink()
    token_store(source, ByteTokenizer(), "train")
    assert source.reads == 2


@pytest.mark.parametrize("damage", ["short", "absent", "counts", "changed"])
def test_a_damaged_store_is_an_error_with_the_remedy(damage: str) -> None:
    store = token_store(Documents("abc"), ByteTokenizer(), "train")
    if damage == "short":
        store.path.write_bytes(b"ab")
    elif damage == "changed":  # of the right size
        store.path.write_bytes(store.path.read_bytes()[::-1])
    elif damage == "absent":
        store.path.unlink()
    else:
        store.path.with_suffix(".json").write_text('{"tokens": 3}')
    with pytest.raises(DataError, match=r"train\.(bin|json) is .*; delete .* to create it again"):
        token_store(Documents("abc"), ByteTokenizer(), "train")


def test_a_large_store_is_looked_at_here_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 3)
    monkeypatch.setattr(module, "SAMPLE_BYTES", 4)
    store = token_store(Documents("x" * 1000), ByteTokenizer(), "train")
    whole = store.path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        store.path.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
        with pytest.raises(DataError, match="its digest differs"):
            token_store(Documents("x" * 1000), ByteTokenizer(), "train")


def test_unknown_words_are_charged_for_their_spelling() -> None:
    """The fewer words a vocabulary knows, the more bits per byte takes, though a loss of zero."""
    source = Documents("the cat sees the dog", "the fox likes the cat")
    found = []
    for size in (3, 4, 20):
        tokenizer = WordTokenizer(max_vocab=size)
        tokenizer.train(source.documents("train"))
        store = token_store(source, tokenizer, "train")
        known = {tokenizer.token_text(i) for i in range(tokenizer.vocab_size - 2)}
        words = [word for text in source.texts for word in re.findall(r" ?\w+", text)]
        unknown = [word for word in words if word not in known]
        assert store.counts.unknown == len(unknown)
        assert store.unknown_bytes == sum(map(len, unknown))
        assert store.unknown_share == len(unknown) / store.counts.tokens
        spelt = sum(len(word) + 1 for word in unknown) * math.log2(257)
        assert store.bits_per_byte(0.0) == pytest.approx(spelt / store.counts.bytes)
        found.append(store.bits_per_byte(0.0))
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0.0


def test_a_worker_gets_the_path_and_not_the_tokens() -> None:
    store = token_store(Documents("x" * 100_000), ByteTokenizer(), "train")
    assert store.tokens.size == 100_000
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    received: TokenStore = pickle.loads(sent)
    assert np.array_equal(received.tokens, store.tokens)


def test_the_tokens_cannot_be_changed() -> None:
    store = token_store(Documents("abc"), ByteTokenizer(), "train")
    with pytest.raises(ValueError, match="read-only"):
        store.tokens[0] = 1
