import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnkit.data import language_modeling
from attnkit.data.language_modeling import LanguageModelingData
from attnkit.data.sources.text import TextFiles
from attnkit.data.sources.tiny_shakespeare import TinyShakespeare
from attnkit.data.tokenizers import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS

OPTIONS: dict[str, Any] = {"max_seq_len": 16, "batch_size": 4, "seed": 1, "val_max_tokens": 64}


@pytest.mark.parametrize("name", ["char", "word", "byte", "bpe"])
def test_a_text_of_one_byte_is_told_in_one_way(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    source = TextFiles(files=str(tmp_path / "a.txt"))
    data = LanguageModelingData(source, TOKENIZERS.build(name), **OPTIONS)
    with pytest.raises(DataError, match=r"the train split (is empty|has 0 tokens).* add text"):
        data.prepare()


@pytest.fixture
def source(tmp_path: Path) -> TextFiles:
    words = [f"word{number % 37} and {number * 7919 % 101};\n" for number in range(300)]
    (tmp_path / "train.txt").write_text("".join(words))
    (tmp_path / "train2.txt").write_text("".join(reversed(words)))
    (tmp_path / "val.txt").write_text("".join(words[:40]) + "ß")
    return TextFiles(
        files=[str(tmp_path / "train.txt"), str(tmp_path / "train2.txt")],
        val_files=str(tmp_path / "val.txt"),
    )


def prepared(source: TextFiles, tokenizer: Tokenizer, **changes: Any) -> LanguageModelingData:
    data = LanguageModelingData(source, tokenizer, **OPTIONS | changes)
    data.prepare()
    return data


def test_the_vocabulary_comes_from_the_training_split_alone(source: TextFiles) -> None:
    data = prepared(source, CharTokenizer())
    assert data.train_store.counts.unknown == 0
    assert data.val_store.counts.unknown == 1
    assert data.train_store.counts.documents == 2


def test_the_tokens_spell_the_text(source: TextFiles) -> None:
    data = prepared(source, BpeTokenizer(vocab_size=300))
    (text,) = source.documents("val")
    assert data.tokenizer.decode(data.val_store.tokens.tolist()) == text
    assert len(text.encode()) / len(data.val_store.tokens) > 1.5
    assert data.val_store.bits_per_byte(math.log(2)) == pytest.approx(
        len(data.val_store.tokens) / len(text.encode())
    )


def test_the_batches_are_those_of_the_options(source: TextFiles) -> None:
    data = prepared(source, ByteTokenizer(), with_documents=True)
    batch = data.train_batch(3)
    assert batch.tokens.shape == batch.targets.shape == (4, 16)
    assert batch.documents is not None
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    halves = [data.train_batch(3, rank, 2).tokens for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), batch.tokens)
    assert torch.equal(data.train_batches(2, 5)[1].tokens, batch.tokens)
    assert not torch.equal(
        prepared(source, ByteTokenizer(), seed=2).train_batch(3).tokens, batch[0]
    )
    assert data.val_batches(data.val_max_tokens).num_tokens == 64
    assert data.val_batches(None).num_tokens == (data.val_store.counts.tokens - 1) // 16 * 16


def test_documents_are_left_out_unless_asked_for(source: TextFiles) -> None:
    data = prepared(source, ByteTokenizer())
    assert data.train_batch(0).documents is None
    assert data.val_batches(None)[0].documents is None


def test_a_trained_tokenizer_is_used_as_it_is(source: TextFiles) -> None:
    tokenizer = CharTokenizer()
    tokenizer.train(["abc"])
    data = prepared(source, tokenizer)
    assert data.tokenizer is tokenizer
    assert data.train_store.counts.unknown > 0


def test_a_vocabulary_is_trained_once_for_each_option(
    source: TextFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(source, BpeTokenizer(vocab_size=300)).tokenizer
    other = prepared(source, BpeTokenizer(vocab_size=280)).tokenizer
    assert (first.vocab_size, other.vocab_size) == (300, 280)
    monkeypatch.setattr(BpeTokenizer, "train", lambda *_: pytest.fail("trained again"))
    assert prepared(source, BpeTokenizer(vocab_size=300)).tokenizer.vocab_size == 300


@pytest.mark.parametrize(("length", "split"), [(700, "val"), (50_000, "train")])
def test_a_text_shorter_than_a_window_is_refused(
    source: TextFiles, length: int, split: str
) -> None:
    with pytest.raises(DataError) as error:
        prepared(source, ByteTokenizer(), max_seq_len=length)
    for part in (f"the {split} split has", f"model.max_seq_len {length}", f"needs {length + 1}"):
        assert part in str(error.value)


def test_a_window_may_be_as_long_as_the_text_allows(source: TextFiles) -> None:
    length = prepared(source, ByteTokenizer()).val_store.counts.tokens - 1
    data = prepared(source, ByteTokenizer(), max_seq_len=length)
    assert data.val_batches(None)[0].tokens.shape == (1, length)


def test_the_floors_are_kept_beside_the_tokens(
    source: TextFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    floors = prepared(source, ByteTokenizer()).floors()
    assert list(floors) == [1, 2, 3, 5]
    assert 0 < floors[5] < floors[3] < floors[1] < np.log(257)
    monkeypatch.setattr("attnkit.data.ngrams.ngram_floors", lambda *_: pytest.fail("again"))
    data = prepared(source, ByteTokenizer())
    assert data.floors() == floors
    data.val_store.path.with_name("floors.json").write_text("[")
    with pytest.raises(DataError, match=r"floors.json is damaged; delete it"):
        data.floors()


def test_the_description_is_plain(source: TextFiles) -> None:
    data = prepared(source, BpeTokenizer(vocab_size=300))
    about = json.loads(json.dumps(data.describe()))
    assert about == data.describe()
    assert about["tokenizer"]["name"] == "bpe"
    assert about["tokenizer"]["vocab_size"] == about["tokenizer"]["tokens"] == 300
    assert about["source"]["sha256"] == about["train"]["source"] == source.fingerprint()
    assert about["val"]["tokens"] == len(data.val_store.tokens)


def test_nothing_is_read_before_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_modeling, "token_store", lambda *_: pytest.fail("read"))
    LanguageModelingData(TextFiles(files="absent.txt"), CharTokenizer(), **OPTIONS)


def test_tiny_shakespeare_has_nanogpts_counts(shakespeare_root: str) -> None:
    data = LanguageModelingData(TinyShakespeare(root=shakespeare_root), CharTokenizer(), **OPTIONS)
    data.prepare()
    assert data.train_store.counts.tokens == 1_003_854
    assert data.val_store.counts.tokens == 111_540
    assert data.tokenizer.vocab_size == 65 + 2
    assert data.val_store.bits_per_byte(math.log(2)) == 1.0
