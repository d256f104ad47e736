"""Random letters, repeated."""

import pytest

from attnkit.data.sources.repeated_letters import RepeatedLetters
from attnkit.errors import DataError

SMALL = {"min_length": 3, "max_length": 6, "repeats": 2, "num_train": 300, "num_val": 40}


def test_each_document_is_said_again():
    source = RepeatedLetters(**SMALL)
    documents = list(source.documents("train"))
    assert len(documents) == 300
    assert {len(document) for document in documents} == {7, 9, 11, 13}
    for document in documents:
        half = len(document) // 2
        assert document == document[:half] * 2 + "\n"
    assert documents == list(RepeatedLetters(**SMALL).documents("train"))
    assert documents[:40] != list(source.documents("val"))
    assert source.describe()["bytes"] == sum(map(source.num_bytes, source.splits))


def test_other_options_are_other_data():
    one, other = RepeatedLetters(num_train=9), RepeatedLetters(num_train=9, data_seed=1)
    assert one.fingerprint() != other.fingerprint()
    assert list(one.documents("train")) != list(other.documents("train"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_length": 9, "max_length": 8}, r"data\.min_length 9"),
        ({"min_length": 1}, r"data\.min_length 1"),
        ({"repeats": 0}, r"data\.repeats"),
        ({"num_val": 0}, r"data\.num_val"),
        ({"data_seed": -1}, r"data\.data_seed"),
    ],
)
def test_what_is_out_of_range_is_refused(given, words):
    with pytest.raises(DataError, match=words):
        RepeatedLetters(**given)
