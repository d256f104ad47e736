"""Two halves of a split: nothing twice, nothing lost."""

import pytest

from attnkit.data.language_modeling import LanguageModelingData
from attnkit.data.sources.base import Piece, TextSource
from attnkit.data.split_parts import HalfOfText, half_of
from attnkit.data.tokenizers import CharTokenizer
from attnkit.data.translation import TranslationData
from attnkit.registry import PAIRS, TOKENIZERS


class Fixed(TextSource):
    """Documents that are given, in pieces of ten characters."""

    def __init__(self, *documents):
        self.texts = documents

    def documents(self, split):
        yield from self.texts

    def pieces(self, split):
        for text in self.texts:
            for i in range(0, len(text), 10):
                yield Piece(text[i : i + 10], ends_document=i + 10 >= len(text))

    def num_bytes(self, split):
        return sum(map(len, self.texts))

    def fingerprint(self):
        return repr(self.texts)

    def describe(self):
        return {"source": "fixed"}


LINES = "".join(f"line {i}\n" for i in range(20))


@pytest.mark.parametrize(
    "documents",
    [("abcdefgh",), (LINES,), ("a" * 30, "b" * 30), ("a" * 30, "b" * 31), ("x", "y" * 50, "z")],
)
def test_the_halves_are_the_whole(documents):
    whole = Fixed(*documents)
    first, second = (HalfOfText(whole, part) for part in ("first_half", "second_half"))
    joined = "".join([*first.documents("val"), *second.documents("val")])
    assert joined == "".join(documents)
    sizes = [sum(map(len, half.documents("val"))) for half in (first, second)]
    assert abs(sizes[0] - sizes[1]) <= 11
    assert first.fingerprint() != second.fingerprint() != whole.fingerprint()
    assert first.describe()["part"] == "first_half"


def test_a_document_is_cut_at_the_end_of_a_line():
    first = "".join(HalfOfText(Fixed(LINES), "first_half").documents("val"))
    assert first.endswith("\n")


def test_documents_stay_apart():
    documents = ("one", "two", "six", "ten")
    halves = [HalfOfText(Fixed(*documents), part) for part in ("first_half", "second_half")]
    assert [list(half.documents("val")) for half in halves] == [["one", "two"], ["six", "ten"]]


def test_items_take_turns():
    assert half_of([0, 1, 2, 3, 4], "first_half") == [0, 2, 4]
    assert half_of([0, 1, 2, 3, 4], "second_half") == [1, 3]
    assert half_of([0, 1], "all") == [0, 1]


def test_pairs_are_halved_for_validation_alone():
    def data(part):
        made = TranslationData(
            PAIRS.build({"name": "reverse", "num_train": 200, "num_val": 41}),
            TOKENIZERS.build("char"),
            None,
            max_seq_len=32,
            max_ratio=None,
            batch_tokens=64,
            seed=0,
            val_max_tokens=None,
            val_part=part,
        )
        made.prepare()
        return made

    whole, first, second = data("all"), data("first_half"), data("second_half")
    parts = [set(made.val_store.pairs) for made in (first, second)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(whole.val_store.pairs)
    assert len(first.train_store) == len(whole.train_store)
    epoch = whole.train_batches(0, whole.train_batches(0, 1).num_per_epoch)
    tokens = [epoch[i].num_tokens for i in range(len(epoch))]
    assert whole.tokens_per_batch == pytest.approx(sum(tokens) / len(tokens))


def test_validation_uses_its_half_and_training_the_whole():
    text = Fixed(LINES, "nile " * 40)

    def data(part):
        made = LanguageModelingData(
            text,
            CharTokenizer(),
            max_seq_len=8,
            batch_size=2,
            seed=0,
            val_max_tokens=None,
            val_part=part,
        )
        made.prepare()
        return made

    whole, first, second = data("all"), data("first_half"), data("second_half")
    assert whole.train_store == first.train_store == second.train_store
    parts = [made.val_store.counts for made in (first, second)]
    assert sum(counts.characters for counts in parts) == whole.val_store.counts.characters
    assert first.floors() != second.floors()
