from collections import Counter
from itertools import combinations

import pytest

from attnkit.data.sources.ambiguous_words import AmbiguousWords, of_word, place_of
from attnkit.errors import DataError

SOURCE = AmbiguousWords(sentences=60)
GOOD = "mole\tanimal\tA mole digs.\n"


def written(tmp_path, text):
    path = tmp_path / "words.tsv"
    path.write_text(text)
    return AmbiguousWords(file=path)


def test_every_sense_has_as_many_different_sentences_and_each_contains_its_word():
    usages = SOURCE.usages()
    assert len(set(usages)) == len(usages)
    assert set(Counter(usage[:2] for usage in usages).values()) == {60}
    assert len({usage.word for usage in usages}) == 10
    for usage in usages:
        start, stop = place_of(usage)
        assert usage.sentence[start:stop] == usage.word
        assert usage.sentence[0].isupper()


def test_no_sentence_is_in_both_splits_and_each_sense_is_in_both():
    train, val = SOURCE.usages("train"), SOURCE.usages("val")
    assert not {usage.sentence for usage in train} & {usage.sentence for usage in val}
    assert {usage[:2] for usage in train} == {usage[:2] for usage in val}
    assert set(Counter(usage[:2] for usage in val).values()) == {6}


def test_senses_of_a_word_share_their_frames_and_no_word_that_fills_them():
    words = {
        (usage.word, usage.sense): Counter()
        for usage in SOURCE.usages()
    }  # fmt: skip
    for usage in SOURCE.usages():
        words[usage[:2]].update(set(usage.sentence.lower().rstrip(".").split()))
    common = {"the", "with", "was", "by", "of", "in", "on", "at"}
    for (one, first), (other, second) in combinations(words.items(), 2):
        if one[0] == other[0]:
            shared = set(first) & set(second) - common - {one[0]}
            # Prepositions and their like: none is a noun or a verb of both.
            assert all(len(word) <= 6 for word in shared), (one, other, shared)


def test_the_sentences_are_the_same_in_every_process():
    assert SOURCE.fingerprint() == AmbiguousWords(sentences=60).fingerprint()
    assert SOURCE.fingerprint() != AmbiguousWords(sentences=61).fingerprint()


def test_own_sentences_are_read_from_a_file(tmp_path):
    source = written(tmp_path, GOOD + "\nmole\tunit\tOne Mole of salt.\n" + GOOD)
    assert {usage.sense for usage in source.usages()} == {"animal", "unit"}
    assert len(source.usages()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mole\tanimal\n", ":1: expected word, tab, sense, tab, sentence"),
        (GOOD + "mole\tunit\tMoles dig.\n", ":2: the sentence does not contain the word 'mole'"),
        (GOOD + "mole\tunit\tA mole digs.\n", ":2: the same sentence occurs above"),
        ("\n", "has no sentence"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=r"words\.tsv") as caught:
        written(tmp_path, text).usages()
    assert message in str(caught.value)


def test_a_word_needs_two_senses_of_two_sentences():
    usages = SOURCE.usages()
    assert len(of_word(usages, "mole", "the set")) == 180
    with pytest.raises(DataError, match="no sentence about the word 'whale'"):
        of_word(usages, "whale", "the set")
    moles = [usage for usage in usages if usage[:2] == ("mole", "unit")]
    with pytest.raises(DataError, match="one sense of the word"):
        of_word(moles, "mole", "the set")
    alone = next(usage for usage in usages if usage[:2] == ("mole", "skin"))
    with pytest.raises(DataError, match="one sentence about the word 'mole' in the sense 'skin'"):
        of_word([*moles, alone], "mole", "the set")
