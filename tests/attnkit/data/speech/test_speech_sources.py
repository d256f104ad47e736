"""Made speech and recordings of one's own: their splits, messages and refusals."""

import logging
import os
import sys

import numpy as np
import pytest

from attnkit.data.pairs.base import SplitByText
from attnkit.data.sound import espeak
from attnkit.data.sound.formants import HELD_OUT, KNOWN
from attnkit.data.sound.wav import RATE, wav_bytes
from attnkit.data.speech_store import sounds_of
from attnkit.data.spoken_words import in_words, ordinal, year
from attnkit.errors import DataError
from attnkit.registry import SPEECH


def made(**options):
    return SPEECH.build({"name": "made_speech", "num_train": 40, "num_val": 12, **options})


def test_numbers_are_said_as_english_says_them():
    numbers = (0, 7, 13, 20, 42, 100, 110, 999)
    assert [in_words(n) for n in numbers] == [
        "zero", "seven", "thirteen", "twenty", "forty two", "one hundred", "one hundred ten",
        "nine hundred ninety nine",
    ]  # fmt: skip
    ordinals = [ordinal(n) for n in (1, 2, 3, 5, 8, 9, 12, 20, 21, 30)]
    assert ordinals == [
        "first", "second", "third", "fifth", "eighth", "ninth", "twelfth", "twentieth",
        "twenty first", "thirtieth",
    ]  # fmt: skip
    years = ["nineteen hundred", "nineteen o two", "nineteen eighty seven"]
    assert [year(n) for n in (1900, 1902, 1987)] == years


def test_no_sentence_is_in_two_splits_and_new_voices_are_new():
    source = made()
    splits = {s: list(source.pairs(s)) for s in ("train", "val", *source.test_splits)}
    assert {s: len(pairs) for s, pairs in splits.items()} == {
        "train": 40, "val": 12, "known_voices": 12, "new_voices": 12,
    }  # fmt: skip
    texts = [pair.target for pairs in splits.values() for pair in pairs]
    assert len(texts) == len(set(texts))
    known, new = {voice.name for voice in KNOWN}, {voice.name for voice in HELD_OUT}
    for split, pairs in splits.items():
        assert {pair.source for pair in pairs} <= (new if split == "new_voices" else known)
    assert {pair.source for pair in splits["new_voices"]} == new
    assert list(made().pairs("train")) == splits["train"]
    assert list(made(data_seed=1).pairs("train")) != splits["train"]
    with pytest.raises(DataError, match="no split `test`"):
        list(source.pairs("test"))


def test_sounds_come_from_the_cache_and_a_damaged_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path))
    source = made()
    first, (file,) = sounds_of(source, "val"), tmp_path.rglob("val.npz")
    monkeypatch.setattr(type(source), "utterances", lambda self, split: pytest.fail("again"))
    again = sounds_of(source, "val")
    assert all(map(np.array_equal, first.features, again.features))
    assert again.words == first.words
    assert [len(words) for words in again.words] == [
        len(pair.target.split()) for pair in source.pairs("val")
    ]
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"val\.npz is damaged; delete it"):
        sounds_of(source, "val")


@pytest.fixture
def no_espeak(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / "cache"))


def test_espeak_that_is_not_installed_is_refused_with_the_way_to_install_it(no_espeak):
    with pytest.raises(DataError, match="apt-get install espeak-ng"):
        sounds_of(made(voices="espeak"), "val")


PROGRAM = """#!{python} -S
import math, struct, sys, wave
if "--version" in sys.argv:
    print("eSpeak NG text-to-speech: 1.0  Data at: nowhere")
else:
    word, name = sys.argv[-1], sys.argv[sys.argv.index("-w") + 1]
    tone = [round(16000 * math.cos(n / 5)) for n in range(1000 * len(word))]
    samples = [0] * 700 + tone + [0] * 700
    with wave.open(name, "wb") as file:
        file.setparams((1, 2, 16000, len(samples), "NONE", ""))
        file.writeframes(struct.pack("<%dh" % len(samples), *samples))
"""


def test_espeak_says_each_word_whose_times_are_then_known(no_espeak, tmp_path):
    """With a program in its place that gives each letter 1,000 samples."""
    program = tmp_path / "espeak-ng"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    samples, words = espeak.speak("two bags", espeak.KNOWN[0])
    pause = round(espeak.PAUSE * RATE)
    starts = [2 * pause, 3 * pause + 3000]
    for (start, end), first, letters in zip(words, starts, (3, 4), strict=True):
        assert start * RATE == pytest.approx(first, abs=3 * letters)
        assert (end - start) * RATE == pytest.approx(1000 * letters, abs=3)
    assert len(samples) == pytest.approx(7000 + 5 * pause, abs=6)
    assert made(voices="espeak").describe()["source"].endswith("eSpeak NG text-to-speech: 1.0")


def text_of(split, number):
    """The texts of a split, by their hash."""
    deal, found, n = SplitByText({"val": 10, "test": 10}), [], 0
    while len(found) < number:
        n += 1
        if deal(f"text {n}") == split:
            found.append(f"text {n}")
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five recordings to train on, and one of each other split."""
    monkeypatch.setenv("ATTNKIT_CACHE", str(tmp_path / "cache"))
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    texts = [*text_of("train", 5), *text_of("val", 1), *text_of("test", 1)]
    for i, _ in enumerate(texts):
        content = wav_bytes(0.3 * np.sin(np.arange(4000 + 100 * i) / 9))
        (recordings / f"{i}.wav").write_bytes(content)
    lines = "".join(f"{i}.wav\t{text}\n" for i, text in enumerate(texts))
    (recordings / "transcripts.tsv").write_text(lines)
    return recordings


def recordings(folder, **options):
    return SPEECH.build({"name": "recordings", "folder": folder, **options})


def test_recordings_of_ones_own_are_told_about_once(folder, caplog):
    slow = bytearray((folder / "1.wav").read_bytes())
    slow[24:28] = (8000).to_bytes(4, "little")
    (folder / "1.wav").write_bytes(slow)
    source = recordings(folder)
    with caplog.at_level(logging.WARNING, "attnkit"):
        sounds = sounds_of(source, "train")
        sounds_of(source, "train")
    assert [record.message for record in caplog.records] == [
        "train: 1 of 5 recordings changed; 1.wav: resampled from 8000 Hz to 16000 Hz"
    ]
    assert len(sounds.features) == 5
    assert sounds.words == [None] * 5
    assert [pair.source for pair in source.pairs("val")] == ["5.wav"]
    assert source.describe()["pairs"] == {"train": 5, "val": 1, "test": 1}
    before = source.fingerprint()
    (folder / "0.wav").write_bytes((folder / "2.wav").read_bytes())
    assert recordings(folder).fingerprint() != before


def test_all_broken_files_are_named_at_once(folder):
    for i in (0, 3):
        (folder / f"{i}.wav").write_bytes(b"RIFF of another kind")
    with pytest.raises(DataError) as error:
        sounds_of(recordings(folder), "train")
    assert [os.path.basename(line.split(" is ")[0]) for line in str(error.value).splitlines()] == [
        "0.wav", "3.wav",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("0.wav text\n", r"transcripts\.tsv:1: expected a file, a tab"),
        ("", "is empty"),
        ("gone.wav\ttext\n", r"gone\.wav does not exist"),
        ("0.wav\ttext\n", "the test split is empty"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(folder, table, said):
    (folder / "transcripts.tsv").write_text(table)
    with pytest.raises(DataError, match=said):
        sounds_of(recordings(folder), "test")
