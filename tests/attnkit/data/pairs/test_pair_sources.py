"""Where sentence pairs come from: what each source yields, and what it refuses."""

import gzip
import re

import pytest

from attnkit.data.alignments import gold_of, project, words
from attnkit.data.line_files import read_lines
from attnkit.data.pairs.cldr_pairs import CldrPairs
from attnkit.data.pairs.multi30k import Multi30k
from attnkit.data.pairs.parallel_files import ParallelFiles
from attnkit.data.pairs.reverse import Reverse
from attnkit.data.pairs.tatoeba import Tatoeba
from attnkit.data.pairs.tsv import Tsv
from attnkit.data.tokenizers import BpeTokenizer, ByteTokenizer, CharTokenizer, WordTokenizer
from attnkit.errors import DataError

LANGUAGES = ("de", "ko", "fr")
SMALL = {"num_train": 400, "num_val": 60}


def said(pair):
    """What each sure link joins."""
    return [
        (pair.source[slice(*link.source)], pair.target[slice(*link.target)])
        for link in pair.links
        if link.sure
    ]


# Made sentences


def has_right_past(word):
    """`이었` stands behind a final consonant, `였` behind a vowel."""
    found = re.search("([가-힣])(이었|였)", word)
    return found is None or ((ord(found[1]) - 0xAC00) % 28 != 0) == (found[2] == "이었")


@pytest.mark.parametrize("target", LANGUAGES)
def test_made_sentences_are_the_same_every_time_and_in_no_two_splits(target):
    source, again = CldrPairs(target=target, **SMALL), CldrPairs(target=target, **SMALL)
    splits = ("train", "val", *source.test_splits)
    found = {split: list(source.pairs(split)) for split in splits}
    assert {s: len(p) for s, p in found.items()} == {s: 400 if s == "train" else 60 for s in splits}
    assert all(list(again.pairs(split)) == found[split] for split in splits)
    texts = [pair.source for pairs in found.values() for pair in pairs]
    assert len(set(texts)) == len(texts)
    assert list(CldrPairs(target=target, data_seed=1, **SMALL).pairs("val")) != found["val"]


@pytest.mark.parametrize("target", LANGUAGES)
def test_the_hard_sets_have_what_training_never_shows(target):
    source = CldrPairs(target=target, **SMALL)
    short = re.compile(r"(?<!\d)\d{1,3}(?!\d)")

    def counts(split):  # years aside
        texts = [re.sub(r", \d{4}", "", p.source) for p in source.pairs(split)]
        return [len(n) for text in texts for n in re.findall(r"\d+", text.replace(":", " "))]

    assert max(counts("train")) == 3
    assert max(counts("test_numbers")) == 5
    assert short.search(next(source.pairs("train")).source)
    between = re.compile(r"[.!] ")
    assert max(len(between.findall(p.source)) for p in source.pairs("train")) == 1
    assert {len(between.findall(p.source)) for p in source.pairs("test_length")} == {2}


@pytest.mark.parametrize("target", LANGUAGES)
def test_gold_alignments_lie_in_both_strings_and_join_what_means_the_same(target):
    for pair in CldrPairs(target=target, **SMALL).pairs("val"):
        for link in pair.links:
            assert pair.source[slice(*link.source)].strip()
            assert pair.target[slice(*link.target)].strip()
            assert 0 <= link.source[0] < link.source[1] <= len(pair.source)
            assert 0 <= link.target[0] < link.target[1] <= len(pair.target)
        for a, b in said(pair):
            if a.isdigit() and b.isdigit() and len(a) == 1:
                assert a == b or pair.source.count(":")  # 7 in the evening is 19 elsewhere
        sides = [words(text) for text in pair[:2]]
        possible = gold_of(pair.links, *sides).possible
        assert {j for _, j in possible} == set(range(len(sides[1])))  # every word of the target
        alone = {pair.source[slice(*sides[0][i])] for i in range(len(sides[0]))} - {
            pair.source[slice(*sides[0][i])] for i, _ in possible
        }
        assert alone <= {"of", ",", "It", "AM", "PM"}  # other languages say them otherwise


@pytest.mark.parametrize("target", LANGUAGES)
def test_gold_alignments_survive_every_tokenizer(target):
    pairs = list(CldrPairs(target=target, **SMALL).pairs("val"))
    texts = [text for pair in pairs for text in pair[:2]]
    tokenizers = [ByteTokenizer(), CharTokenizer(), WordTokenizer(), BpeTokenizer(vocab_size=400)]
    for tokenizer in tokenizers:
        tokenizer.train(texts)
        for pair in pairs[:20]:
            offsets = [tokenizer.encode(text).offsets for text in pair[:2]]
            linked = project(pair.links, *offsets)
            joined = {
                (s, t)
                for i, j in linked
                for s in range(*offsets[0][i])
                for t in range(*offsets[1][j])
            }
            for link in pair.links:
                assert (link.source[0], link.target[0]) in joined, (tokenizer, pair.source)


def test_german_and_korean_say_what_they_should():
    pairs = {t: list(CldrPairs(target=t, **SMALL).pairs("train")) for t in LANGUAGES}
    german = " ".join(pair.target for pair in pairs["de"])
    korean = " ".join(pair.target for pair in pairs["ko"])
    assert not re.search(r"(?<!\d)1 (?!Uhr)", re.sub(r"\d{2}:\d{2}", "", german))  # counts of one
    assert "dem" not in re.findall(r"Oktober, (\w+)", german)
    assert not re.search(r"\b(von|zu) dem\b|\bzu der\b", german)
    assert not re.search(r"\b(hinter|unter) (das|den|die)\b", german)  # a place takes the dative
    assert not re.search(r"[^,] aber\b", german)
    assert all(form in german for form in ("vom ", "von der ", "zum ", "zur "))
    french = " ".join(pair.target for pair in pairs["fr"])
    assert not re.search(r"\b(le|la|de) [aeiouyhéè]", french)  # an elision would be needed
    assert max(map(int, re.findall(r", (\d{4})", " ".join(p.source for p in pairs["de"])))) < 2021
    assert "AM" not in korean
    assert "오후" in korean
    assert "오전" in korean
    everything = "".join(text for t in LANGUAGES for p in pairs[t] for text in p[:2])
    assert not {"\u202f", "\u00a0"} & set(everything)
    assert all(map(has_right_past, korean.split()))
    assert all(
        form in korean for form in ("였습니다", "이었고", "였지만", "자야 합니다", "숨겼었습니다")
    )
    for noun, particle in (("소금", "은"), ("커피", "는"), ("그램", "을"), ("리터", "를")):
        other = {"은": "는", "는": "은", "을": "를", "를": "을"}[particle]
        assert f"{noun}{other}" not in korean
        assert f"{noun}{particle}" in korean


def test_both_halves_of_a_contraction_are_linked():
    pairs = CldrPairs(target="de", **SMALL).pairs("train")
    pair = next(pair for pair in pairs if re.search(r"^[^.!]* vom [^.!]*[.!]$", pair.target))
    at = pair.target.index(" vom ") + 1
    halves = {pair.source[slice(*s)]: t for s, t, _ in pair.links if at <= t[0] < at + 3}
    assert (halves["from"], halves["the"]) == ((at, at + 2), (at + 2, at + 3))


def test_verbs_at_the_end_are_linked_across_the_sentence():
    pairs = CldrPairs(target="de", **SMALL).pairs("train")
    pair = next(pair for pair in pairs if pair.source.count("lost") == 1)
    assert ("lost", "verloren") in said(pair)
    gold = gold_of(pair.links, words(pair.source), words(pair.target))
    assert gold.sure < gold.possible


def test_reverse_copies_backwards():
    source = Reverse(num_train=50, num_val=10)
    pairs = [pair for split in ("train", "val", "test") for pair in source.pairs(split)]
    assert len({pair.source for pair in pairs}) == 70
    for pair in pairs:
        assert pair.target.split() == pair.source.split()[::-1]
        assert all(a == b for a, b in said(pair))
    with pytest.raises(DataError, match="too few different lines"):
        Reverse(num_letters=2, max_length=4)


# Files


def test_parallel_files_are_read_line_by_line_gzipped_or_not(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffone\u2028still one\r\ntwo\n".encode())
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"eins\nzwei"))
    files = (str(tmp_path / "a"), str(tmp_path / "b.gz"))
    source = ParallelFiles(train=files, val=files)
    expected = [("one\u2028still one", "eins"), ("two", "zwei")]
    assert [pair[:2] for pair in source.pairs("train")] == expected
    assert source.test_splits == ()
    assert source.describe()["pairs"] == {"train": 2, "val": 2}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (b"a\nb\n", b"c\n", r"a has 2 lines and .*b has 1; line n"),
        (b"a\n\xff\n", b"c\nd\n", r"a:2: byte 0xff is not valid UTF-8"),
        (b"", b"", r"are empty"),
    ],
)
def test_files_that_do_not_fit_are_told(tmp_path, first, second, message):
    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(second)
    files = (str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(DataError, match=message):
        list(ParallelFiles(train=files, val=files).pairs("train"))


def test_a_damaged_gz_and_a_missing_file_are_told(tmp_path):
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    for name, message in (("a.gz", "cannot be read"), ("nowhere", "does not exist")):
        files = (str(tmp_path / name), str(tmp_path / name) + "x")
        with pytest.raises(DataError, match=message):
            list(ParallelFiles(train=files, val=files).pairs("train"))


def test_tsv_ignores_further_columns_and_deals_by_the_first(tmp_path):
    file = tmp_path / "pairs.tsv"
    lines = [f"word {i % 200}\tWort {i}\tCC BY {i}" for i in range(400)]
    file.write_text("\n".join(lines))
    one, swapped = Tsv(file=str(file)), Tsv(file=str(file), swap=True)
    splits = ("train", "val", "test")
    found = {split: list(one.pairs(split)) for split in splits}
    assert sum(map(len, found.values())) == 400
    assert all(found.values())
    texts = [{pair.source for pair in found[split]} for split in splits]
    assert not texts[0] & (texts[1] | texts[2])
    assert [p[:2][::-1] for p in swapped.pairs("val")] == [p[:2] for p in found["val"]]
    file.write_text("a\tb\nno tab\n")
    with pytest.raises(DataError, match=r"pairs.tsv:2: expected source, tab, target"):
        list(Tsv(file=str(file)).pairs("train"))


def test_real_pairs_have_the_published_sizes(data_root, monkeypatch):
    source = Multi30k(root=str(data_root))
    sizes = {split: len(list(source.pairs(split))) for split in ("train", "val", "test2016")}
    assert sizes == {"train": 29000, "val": 1014, "test2016": 1000}
    assert next(source.pairs("test2016")).target.startswith("Ein Mann mit einem orangefarbenen Hut")
    korean = Tatoeba(root=str(data_root))
    assert sum(len(list(korean.pairs(s))) for s in ("train", "val", "test")) == 3798


def test_another_file_under_its_name_is_refused(tmp_path):
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"A man.\n"))
    with pytest.raises(DataError, match=r"is not Multi30k's train.en.gz.*expected d79cfa99"):
        list(Multi30k(root=str(tmp_path)).pairs("train"))


def test_tatoeba_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTNKIT_DATA", raising=False)
    with pytest.raises(DataError, match=r"not on this machine; unpack https.*data.root"):
        list(Tatoeba(root=str(tmp_path)).pairs("train"))


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """20 kB that would become 20 MB."""
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"\n" * 20_000_000))
    with pytest.raises(DataError, match=r"bomb\.gz unpacks to more than 16,777,216 bytes"):
        read_lines(bomb)
