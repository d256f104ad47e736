import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnkit.data import token_store
from attnkit.data.language_modeling import LanguageModelingData
from attnkit.data.sources.token_shards import TokenShards
from attnkit.data.tokenizers import BpeTokenizer, ByteTokenizer, GivenTokenizer, load_tokenizer
from attnkit.errors import DataError

WriteShard = Callable[..., Path]
OPTIONS: dict[str, Any] = {"max_seq_len": 16, "batch_size": 4, "seed": 1, "val_max_tokens": 64}
STREAM = np.random.default_rng(0).integers(0, 50257, 3000).astype("<u2")


@pytest.fixture
def shard(write_shard: WriteShard) -> Callable[..., Path]:
    return write_shard


@pytest.fixture
def folder(tmp_path: Path, shard: WriteShard, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three shards of one stream to train on, of unequal sizes, and one for validation."""
    monkeypatch.chdir(tmp_path)
    for number, part in enumerate(np.split(STREAM, [700, 701])):
        shard(tmp_path / f"train_{number:06}.bin", part)
    shard(tmp_path / "val_000000.bin", STREAM[:401])
    return tmp_path


def prepared(tokenizer: Any = None, **changes: Any) -> LanguageModelingData:
    source = TokenShards(train=Path("train_*.bin"), val=Path("val_*.bin"))
    data = LanguageModelingData(source, tokenizer or GivenTokenizer(), **OPTIONS | changes)
    data.prepare()
    return data


def test_shards_are_one_stream_in_the_order_of_their_names(folder: Path) -> None:
    tokens = prepared().train_store.tokens
    assert len(tokens) == 3000
    assert np.array_equal(tokens[:], STREAM)
    assert np.array_equal(tokens[650:720], STREAM[650:720])
    places = np.array([[0, 699], [700, 701], [2999, 702]])
    assert np.array_equal(tokens[places], STREAM[places])


def test_batches_are_those_of_the_same_tokens_in_memory(folder: Path) -> None:
    data = prepared()
    for step in range(20):
        batch = data.train_batch(step)
        starts = data.train_batches(step, step + 1).window_starts(step)
        windows = STREAM[starts[:, None] + np.arange(17)].astype(np.int64)
        assert torch.equal(batch.tokens, torch.from_numpy(windows[:, :-1]))
        assert torch.equal(batch.targets, torch.from_numpy(windows[:, 1:]))
    assert len(data.val_batches(None)) * 4 * 16 >= 400


def test_windows_reach_over_the_ends_of_shards(folder: Path) -> None:
    batches = prepared().train_batches(0, 400)
    starts = np.concatenate([batches.window_starts(step) for step in range(400)])
    assert (starts < 700).any()
    assert ((starts <= 700) & (starts + 16 > 701)).any()  # over all three of them


def test_what_is_not_known_without_text_is_not_told(folder: Path) -> None:
    data = prepared()
    counts = data.describe()["val"]
    assert counts["bytes"] is counts["characters"] is counts["documents"] is None
    assert data.val_store.bits_per_byte(3.0) is None
    assert data.floors().keys() == {1, 2, 3, 5}
    assert data.floors() == data.floors()


def test_files_are_mapped_and_never_read_whole(
    folder: Path, shard: WriteShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "SAMPLES", 4)
    large = np.zeros(10_000_000, "<u2")
    shard(folder / "train_000003.bin", large)
    tracemalloc.start()
    data = prepared()
    for step in range(5):
        data.train_batch(step)
    assert len(data.train_store.tokens[:5000]) == 5000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert data.train_store.counts.tokens == 10_003_000
    assert peak < large.nbytes / 10


def test_a_store_maps_its_files_anew_in_another_process(folder: Path) -> None:
    store = prepared().train_store
    store.tokens[:5]
    packed = pickle.dumps(store)
    assert len(packed) < 2000
    again = pickle.loads(packed)
    assert again == store
    assert np.array_equal(again.tokens[:], STREAM)


def test_halves_of_validation_are_its_tokens_cut_in_two(folder: Path, shard: WriteShard) -> None:
    shard(folder / "val_000001.bin", STREAM[401:1000])
    halves = [prepared(val_part=part) for part in ("first_half", "second_half")]
    first, second = (data.val_store.tokens[:] for data in halves)
    assert (len(first), len(second)) == (500, 500)
    assert np.array_equal(np.concatenate([first, second]), STREAM[:1000])
    assert len({data.val_store.counts.source for data in halves}) == 2
    assert len(halves[0].train_store.tokens) == 3000


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(
    folder: Path, shard: WriteShard
) -> None:
    def found(name: str = "train_*.bin") -> str:
        return TokenShards(train=Path(name), val=Path("val_*.bin")).fingerprint()

    before = found()
    for file in list(folder.glob("train_*.bin")):
        file.rename(file.with_name(f"other_{file.name}"))
    assert found("other_*.bin") == before
    shard(folder / "other_train_000001.bin", np.array([7]))
    assert found("other_*.bin") != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"magic": 20240801}, "is not a shard of tokens: .* 20240520"),
        ({"version": 2}, "is a shard of version 2, but attnkit reads version 1"),
        ({"count": 51}, r"is cut off: its header declares 51 tokens .* 100 bytes follow"),
        ({"count": 49}, "is too long: its header declares 49 tokens"),
        ({"count": -1}, "is too long"),
    ],
)
def test_a_bad_header_is_told_with_its_file(
    folder: Path, shard: WriteShard, changes: dict[str, int], said: str
) -> None:
    shard(folder / "train_000001.bin", STREAM[:50], **changes)
    with pytest.raises(DataError, match=rf"train_000001\.bin {said}"):
        prepared()


@pytest.mark.parametrize("size", [1, 1023, 1024, 1024 + 1399, 1024 + 1401])
def test_a_file_of_another_size_is_told(folder: Path, size: int) -> None:
    path = folder / "train_000000.bin"
    path.write_bytes((path.read_bytes() + b"x")[:size])
    with pytest.raises(DataError, match=r"train_000000\.bin is (not a shard|cut off|too long)"):
        prepared()


def test_a_shard_without_tokens_is_told(folder: Path, shard: WriteShard) -> None:
    shard(folder / "train_000001.bin", STREAM[:0])
    with pytest.raises(DataError, match=r"train_000001\.bin has no tokens; remove it"):
        prepared()


def test_a_token_beyond_the_vocabulary_is_told_when_it_comes(
    folder: Path, shard: WriteShard
) -> None:
    tokens = np.zeros(100_000, "<u2")
    tokens[90_000:] = 50_300
    shard(folder / "train_000001.bin", tokens)
    data = prepared()
    with pytest.raises(DataError, match=r"train_000001\.bin contains the token 50300, .* 50257"):
        [data.train_batch(step) for step in range(100)]
    assert prepared(GivenTokenizer(vocab_size=50304)).train_batch(0).tokens.max() < 50304
    shard(folder / "train_000001.bin", tokens[::-1])
    with pytest.raises(DataError, match="contains the token 50300"):  # before training begins
        prepared()


def test_files_that_are_not_there_or_twice_are_told(folder: Path) -> None:
    tokenizer = GivenTokenizer()
    missing = TokenShards(train=Path("no_*.bin"), val=Path("val_*.bin"))
    with pytest.raises(DataError, match=r"data\.train: no file matches no_\*\.bin"):
        missing.store("train", tokenizer)
    both = TokenShards(train=Path("*.bin"), val=Path("val_*.bin"))
    with pytest.raises(DataError, match=r"val_000000\.bin is in both data\.train and data\.val"):
        both.store("val", tokenizer)


def test_a_vocabulary_must_be_there_already(folder: Path, shard: WriteShard) -> None:
    with pytest.raises(DataError, match=r"tokens, not of text .* tokenizer=\{name: given"):
        prepared(BpeTokenizer())
    for path in folder.glob("*.bin"):
        shard(path, STREAM[:500] % 256)
    assert prepared(ByteTokenizer()).train_batch(0).tokens.max() < 256


# The vocabulary


def test_without_a_file_tokens_are_their_numbers(tmp_path: Path) -> None:
    tokenizer = GivenTokenizer(vocab_size=50304)
    assert (tokenizer.vocab_size, tokenizer.end_of_document_id) == (50304, 50256)
    assert not tokenizer.reads_text
    assert tokenizer.decode([464, 3290]) == " 464 3290"
    assert tokenizer.encode(" 464 3290\n7").ids == [464, 3290, 7]
    assert tokenizer.encode("464 3290").offsets == [(0, 3), (3, 8)]
    assert tokenizer.readable([464, 50256, 7]) == " 464\n\n 7"
    assert tokenizer.prompt("\n") == [50256]
    with pytest.raises(DataError, match="`The` is not a token number below 50304"):
        tokenizer.encode("1 The dog")
    with pytest.raises(DataError, match="`50304` is not a token number"):
        tokenizer.encode("50304")
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint() == tokenizer.fingerprint()


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A byte-level vocabulary in a file, with a special token as GPT-2's has one."""
    trained = BpeTokenizer(vocab_size=280)
    trained.train(["the cat sees the dog. " * 9])
    engine = trained._trained
    engine.add_special_tokens(["<|endoftext|>"])
    engine.save(str(tmp_path / "vocabulary.json"))
    return tmp_path / "vocabulary.json"


def test_with_a_file_they_are_text(vocabulary: Path, tmp_path: Path) -> None:
    size = GivenTokenizer(file=vocabulary)._engine.get_vocab_size()  # type: ignore[union-attr]
    tokenizer = GivenTokenizer(file=vocabulary, vocab_size=size + 3, end=size - 1)
    text = "the cat, <|endoftext|>서"
    ids = tokenizer.encode(text).ids
    assert tokenizer.end_of_document_id not in ids  # no text is read as it
    assert tokenizer.encode_batch([text])[0].tolist() == ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.readable([*ids, size - 1, ids[0]]) == f"{text}\n\n{tokenizer.decode(ids[:1])}"
    assert "".join(map(tokenizer.token_text, tokenizer.encode("the cat").ids)) == "the cat"
    assert tokenizer.token_text(tokenizer.encode("서").ids[0]) == r"\xec"
    assert tokenizer.token_text(size + 1) == f" {size + 1}"  # room that no token uses
    tokenizer.save(tmp_path)
    vocabulary.unlink()
    again = load_tokenizer(tmp_path)
    assert again.reads_text
    assert again.encode(text).ids == ids


def test_a_file_that_is_none_or_does_not_fit_is_told(vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.file: .*bad\.json cannot be read"):
        GivenTokenizer(file=tmp_path / "bad.json").encode("a")
    with pytest.raises(DataError, match=r"vocabulary\.json has \d+ tokens, .*vocab_size is 100; "):
        GivenTokenizer(file=vocabulary, vocab_size=100, end=99).encode("a")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocab_size": 0}, "tokenizer.vocab_size must be from 1"),
        ({"end": 50257}, "tokenizer.end must be from 0 to 50256"),
        ({"end": -1}, "tokenizer.end must be from 0 to 50256"),
    ],
)
def test_bad_options_are_told(options: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        GivenTokenizer(**options)
