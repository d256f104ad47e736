import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attnkit.data import huggingface_tokenizer
from attnkit.data.tokenizer_base import END, UNKNOWN
from attnkit.data.tokenizers import (
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)
from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS

TEXTS = [
    "Die Größe der Übung: äöüß, naïve café.",
    "서울에서 30년 전에 만났습니다.",
    "👩🏽‍🚀👋 an emoji, e\u0301 and a\u00a0space",
    "line\nbreak\r\n\n\ttab   spaces ",
    f"a document may say {END} or {UNKNOWN} itself",
]

NAMES = sorted({*TOKENIZERS.names()} - {"given"})  # which needs a file; see test_token_shards


def trained(name: str) -> Tokenizer:
    tokenizer: Tokenizer = TOKENIZERS.build(name)
    tokenizer.train(TEXTS)
    return tokenizer


def test_the_four_kinds_are_registered() -> None:
    assert {"byte", "char", "word", "bpe"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [*TEXTS, ""])
def test_a_text_survives_the_round_trip(name: str, text: str) -> None:
    tokenizer = trained(name)
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids) == text
    assert tokenizer.encode_batch([text, text])[1].tolist() == encoding.ids
    assert tokenizer.end_of_document_id not in encoding.ids
    assert tokenizer.unknown_id not in encoding.ids
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in encoding.ids)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", TEXTS)
def test_offsets_lead_back_to_the_text(name: str, text: str) -> None:
    tokenizer = trained(name)
    encoding = tokenizer.encode(text)
    assert len(encoding.offsets) == len(encoding.ids)
    covered = set()
    for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        shown = tokenizer.token_text(token_id)
        # A token that is only a part of a character has that whole character's offsets.
        assert text[start:stop] == shown or "\\x" in shown
        covered.update(range(start, stop))
    assert covered == set(range(len(text)))
    assert [start for start, _ in encoding.offsets] == sorted(s for s, _ in encoding.offsets)


@pytest.mark.parametrize("name", NAMES)
def test_the_end_token_is_the_last_and_is_shown(name: str) -> None:
    tokenizer = trained(name)
    end = tokenizer.end_of_document_id
    assert end == tokenizer.vocab_size - 1
    assert tokenizer.token_text(end) == END
    ids = [*tokenizer.encode("Die").ids, end, end, *tokenizer.encode(" Übung").ids, end]
    assert tokenizer.decode(ids) == f"Die{END}{END} Übung{END}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_what_is_loaded(name: str, tmp_path: Path) -> None:
    tokenizer = trained(name)
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.glob("tokenizer*")] == ["tokenizer.json"]
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.options() == tokenizer.options()
    for text in TEXTS:
        assert loaded.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("name", NAMES)
def test_training_is_deterministic_and_may_come_in_pieces(name: str) -> None:
    first = trained(name)
    second: Tokenizer = TOKENIZERS.build(name)
    second.train(text for text in TEXTS)
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"byte"}))
def test_without_a_vocabulary_the_error_says_what_to_do(name: str, tmp_path: Path) -> None:
    tokenizer: Tokenizer = TOKENIZERS.build(name)
    assert tokenizer.vocab_size == 0
    for action in (
        lambda: tokenizer.encode("a"),
        lambda: tokenizer.end_of_document_id,
        lambda: tokenizer.save(tmp_path),
    ):
        with pytest.raises(DataError, match=f"{name} tokenizer has no vocabulary yet; call train"):
            action()


def test_bytes_are_bytes() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aß").ids == [97, 0xC3, 0x9F]
    assert tokenizer.encode("aß").offsets == [(0, 1), (1, 2), (1, 2)]
    assert [tokenizer.token_text(token_id) for token_id in (97, 0xC3)] == ["a", "\\xc3"]
    assert tokenizer.decode([97, 0xC3, 98]) == "a\N{REPLACEMENT CHARACTER}b"


def test_unseen_characters_become_the_unknown_token() -> None:
    tokenizer = CharTokenizer()
    tokenizer.train(["cab"])
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("a!c").ids == [0, tokenizer.unknown_id, 2]
    assert tokenizer.decode([0, tokenizer.unknown_id]) == f"a{UNKNOWN}"


def test_words_split_digits_and_keep_the_space_before_them() -> None:
    tokenizer = WordTokenizer()
    text = "In 1984, don't  go.\n"
    tokenizer.train([text])
    words = [tokenizer.token_text(token_id) for token_id in tokenizer.encode(text).ids]
    assert words == ["In", " 1", "9", "8", "4", ",", " don", "'", "t", " ", " go", ".", "\n"]


def test_rare_words_become_the_unknown_token() -> None:
    tokenizer = WordTokenizer(max_vocab=4)
    tokenizer.train(["a a a a", " b b c"])
    assert tokenizer.vocab_size == 4
    encoding = tokenizer.encode("a a b zebra")
    assert tokenizer.decode(encoding.ids) == f"{UNKNOWN} a b{UNKNOWN}"
    assert tokenizer.token_text(tokenizer.unknown_id) == UNKNOWN
    assert encoding.offsets[-1] == (5, 11)


def test_bpe_learns_no_more_than_it_was_asked_to() -> None:
    tokenizer = BpeTokenizer(vocab_size=260)
    tokenizer.train(["abababab cdcdcdcd " * 50])
    assert tokenizer.vocab_size == 260
    assert len(tokenizer.encode("abab").ids) < 4
    with pytest.raises(IndexError, match="no token has the id 999"):
        tokenizer.token_text(999)


@pytest.mark.parametrize("name", ["bpe", "word"])
def test_a_large_text_is_handed_over_in_small_parts_and_gives_the_same_vocabulary(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library reads 256 texts ahead, so that large ones stop the progress bar for minutes."""
    text = " ".join(TEXTS * 20) + "\n\n  two spaces,it's 12 a\tb  \r\n" * 20
    whole: Tokenizer = TOKENIZERS.build(name)
    whole.train([text])
    monkeypatch.setattr(huggingface_tokenizer, "PART_CHARACTERS", 10)
    parts: list[str] = []
    small = TOKENIZERS.build(name)
    train = small._train_engine
    small._train_engine = lambda texts: train(parts.append(part) or part for part in texts)
    small.train([text])
    assert "".join(parts) == text
    assert max(map(len, parts)) < 60
    assert small.fingerprint() == whole.fingerprint()


@pytest.mark.parametrize("word", ["a" * 3000, " " * 3000, "-_" * 1500, "한국어" * 1000])
def test_a_word_without_end_is_cut_before_subwords_are_learnt(word: str) -> None:
    """Uncut, pairs of pairs would grow to a thousand letters, in the square of the time."""
    tokenizer = BpeTokenizer(vocab_size=1000)
    tokenizer.train([f"so {word} so"])
    texts = map(tokenizer.token_text, range(tokenizer.vocab_size - 1))
    assert 100 < max(map(len, texts)) <= 257  # a space may stand before it
    assert tokenizer.decode(tokenizer.encode(word).ids) == word


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "bpe", "vocab_size": 256}, "tokenizer.vocab_size must be from 257.*got 256"),
        ({"name": "bpe", "vocab_size": 10**12}, "to 16,777,216, got 1000000000000"),
        ({"name": "word", "max_vocab": 2}, "tokenizer.max_vocab must be from 3 to .*, got 2"),
        ({"name": "word", "max_vocab": 2**70}, "to 16,777,216, got 1180591620717411303424"),
    ],
)
def test_too_small_or_large_a_vocabulary_is_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TOKENIZERS.build(spec)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer.json cannot be read \(No such file"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is damaged or no tokenizer"),
        (lambda text: "", "is damaged or no tokenizer"),
        (lambda text: "[1, 2]", "is damaged or no tokenizer"),
        (lambda text: '{"kind": "char"}', "is damaged or no tokenizer"),
        (lambda text: "[" * 100_000, "is damaged or no tokenizer"),
        (lambda text: '{"kind": [], "state": {}, "sha256": ""}', "its sha256 differs"),
        (lambda text: '{"kind": "char", "state": ' + '{"a":' * 900 + "0" + "}" * 901, "damaged"),
        (lambda text: text.replace("Die"[0], "X", 1), "its sha256 differs"),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, damage, message: str) -> None:
    trained("char").save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("bpe", {"options": {"vocab_size": 300}, "engine": {"model": 1}}),
        ("bpe", {"options": {"vocab_size": 300}}),
        ("word", {"options": {"max_vocab": 10**12}, "engine": {}}),
        ("word", {"options": {"colour": "red"}, "engine": {}}),
        ("word", []),
        ("char", {"characters": ["a"]}),
        ("char", {"characters": "\ud800"}),
    ],
)
def test_a_file_that_holds_no_vocabulary_is_an_error(tmp_path: Path, kind: str, state) -> None:
    """Whole and with the right digest, as only somebody who means harm would write it."""
    digest = hashlib.sha256(json.dumps([kind, state], sort_keys=True).encode()).hexdigest()
    content = {"kind": kind, "state": state, "sha256": digest}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"tokenizer.json is not a vocabulary of the {kind}"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_an_absent_plugin_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TOKENIZERS, "name_of", lambda cls: "syllable")
        trained("char").save(tmp_path)
    with pytest.raises(DataError, match=r"unknown tokenizer `syllable`.*load the plugin"):
        load_tokenizer(tmp_path)


def test_a_corpus_of_characters_is_looked_up_and_not_walked() -> None:
    tokenizer = trained("char")
    (ids,) = tokenizer.encode_batch(["Übung " * 200_000])
    assert ids.shape == (1_200_000,)
    assert np.unique(ids).size == 6


def test_forked_workers_are_quiet_and_the_setting_stays_the_users() -> None:
    script = """
import os
from attnkit.data.tokenizers import BpeTokenizer
tokenizer = BpeTokenizer(vocab_size=300)
tokenizer.train(["some text"] * 100)
tokenizer.encode_batch(["some text"] * 100)
child = os.fork()
if child == 0:
    os.write(1, os.environ.get("TOKENIZERS_PARALLELISM", "unset").encode() + b" ")
    os._exit(0)
os.waitpid(child, 0)
os.write(1, os.environ.get("TOKENIZERS_PARALLELISM", "unset").encode())
"""
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    for setting, expected in ({}, "false unset"), ({"TOKENIZERS_PARALLELISM": "true"}, "true true"):
        process = subprocess.run(
            # From 3.12 on, Python itself warns of a fork beside threads.
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
            env=environment | setting,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (process.stdout, process.stderr) == (expected, "")


def test_the_saved_file_is_readable_text(tmp_path: Path) -> None:
    trained("char").save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert content["kind"] == "char"
    assert "서" in content["state"]["characters"]


@pytest.mark.parametrize("name", ["byte", "char", "word", "bpe"])
def test_a_person_is_shown_no_raw_marks(name):
    tokenizer = TOKENIZERS.build({"name": name, "vocab_size": 257} if name == "bpe" else name)
    tokenizer.train(["ab a"])
    end, unknown = tokenizer.end_of_document_id, tokenizer.unknown_id
    ids = tokenizer.encode("ab").ids
    assert tokenizer.readable([*ids, end, *ids]) == "ab\n\nab"
    if unknown is not None:
        assert tokenizer.readable([*ids, unknown, unknown, *ids]) == "ab□□ab"
