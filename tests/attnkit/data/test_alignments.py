"""Alignments: the error rate on an example by hand, files, projection onto words and tokens."""

import math

import pytest

from attnkit.data.alignments import (
    AlignmentScore,
    Gold,
    gold_of,
    project,
    read_alignments,
    token_words,
    words,
)
from attnkit.data.line_files import read_lines
from attnkit.data.pairs.base import SpanLink
from attnkit.errors import DataError


def test_the_error_rate_of_an_example_by_hand():
    """A has 4 links, 2 of them sure and 3 possible; S has 3: AER = 1 - (2 + 3) / (4 + 3)."""
    gold = Gold(frozenset({(0, 0), (1, 1), (4, 3)}), frozenset({(0, 0), (1, 1), (4, 3), (2, 1)}))
    score = AlignmentScore()
    score.add([(0, 0), (1, 1), (2, 1), (3, 2)], gold)
    assert score.error_rate == pytest.approx(1 - 5 / 7)
    assert score.precision == pytest.approx(2 / 3)  # of the words 0, 1 and 3, two point right
    score.add([(0, 0)], Gold(frozenset({(0, 0)}), frozenset({(0, 0)})))
    assert score.error_rate == pytest.approx(1 - 7 / 9)
    assert math.isnan(AlignmentScore().error_rate)


def test_words_are_numbers_letters_and_marks():
    text = "3주 전에 40갤런을 (US-Dollar)."
    found = [text[slice(*span)] for span in words(text)]
    assert found == ["3", "주", "전에", "40", "갤런을", "(", "US", "-", "Dollar", ")", "."]
    assert [text[slice(*s)] for s in words(text, split_on_spaces=True)] == text.split()


def test_links_of_characters_become_links_of_words():
    links = [SpanLink((0, 3), (4, 7)), SpanLink((4, 9), (0, 3), sure=False)]
    spans = [(0, 3), (4, 6), (7, 9)], [(0, 3), (4, 7)]
    assert project(links, *spans) == {(0, 1), (1, 0), (2, 0)}
    gold = gold_of(links, *spans)
    assert gold.sure == {(0, 1)}
    assert gold.possible == {(0, 1), (1, 0), (2, 0)}


def test_tokens_and_words_find_each_other():
    of_token, first = token_words([(0, 2), (2, 4), (4, 5), (5, 8)], [(0, 4), (5, 8)])
    assert of_token == [0, 0, None, 1]
    assert first == [0, 3]


@pytest.mark.parametrize("first_index", [0, 1])
def test_both_forms_say_the_same(tmp_path, first_index):
    one = first_index
    pharaoh, naacl = tmp_path / "a", tmp_path / "b"
    pharaoh.write_text(f"{one}-{one} {one + 1}?{one}\n{one + 2}-{one}\n")
    naacl.write_text(f"1 {one} {one} S\n1 {one + 1} {one} P\n\n2 {one + 2} {one}\n")
    found = [
        read_alignments(path, 2, form=form, first_index=first_index)
        for path, form in ((pharaoh, "pharaoh"), (naacl, "naacl"))
    ]
    assert found[0] == found[1]
    assert found[0][0] == Gold(frozenset({(0, 0)}), frozenset({(0, 0), (1, 0)}))
    assert found[0][1].sure == {(2, 0)}


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ("0-0\n", "pharaoh", "has 1 lines for 2 sentences"),
        ("0-0\n1:1\n", "pharaoh", r":2: '1:1' is not a link such as 3-4"),
        ("1 0\n", "naacl", r":1: expected `sentence source target S\|P`"),
        ("3 0 0\n", "naacl", r":1: sentence 3 is not one of 1 to 2"),
        ("1 0 1\n", "naacl", r":1: word 0 in a file whose words count from 1"),
    ],
)
def test_files_that_cannot_be_read_are_told_by_line(tmp_path, text, form, message):
    (tmp_path / "gold").write_text(text)
    first_index = int("word 0" in message)
    with pytest.raises(DataError, match=message):
        read_alignments(tmp_path / "gold", 2, form=form, first_index=first_index)


def test_real_gold_alignments(data_root):
    """1,233 sure links, of which one points beyond its sentence; a diagonal is far from them."""
    folder = data_root / "align-de-en"
    sources, targets = read_lines(folder / "test.de"), read_lines(folder / "test.en")
    gold = read_alignments(folder / "de-en.ref.wa", 100, form="naacl", first_index=0)
    assert sum(len(one.sure) for one in gold) == 1233
    perfect, diagonal, beyond = AlignmentScore(), AlignmentScore(), 0
    for source, target, one in zip(sources, targets, gold, strict=True):
        sizes = len(source.split()), len(target.split())
        beyond += sum(i >= sizes[0] or j >= sizes[1] for i, j in one.sure)
        perfect.add(one.sure, one)
        diagonal.add([(j, j) for j in range(len(target.split()))], one)
    assert beyond == 1
    assert perfect.error_rate == 0
    assert 0.5 < diagonal.error_rate < 0.9
