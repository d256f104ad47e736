"""Each task's answers, found again by a slow solver that reads the tokens one by one."""

import numpy as np
import pytest

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.pair_batch import IGNORED
from attnkit.errors import DataError
from attnkit.registry import SYNTHETIC


def recall(words, task):
    """The pairs stand in front; with blanks as filler, every key behind them is a query."""
    context = words[: 2 * task.num_pairs]
    pairs = dict(zip(context[::2], context[1::2], strict=True))
    assert len(pairs) == len(set(pairs.values())) == task.num_pairs
    assert all(k[0] == "k" and v[0] == "v" for k, v in pairs.items())
    answers = {}
    for place in range(2 * task.num_pairs, len(words)):
        if words[place] in pairs:
            answers[place] = pairs[words[place]]
        else:
            assert words[place] == "."
    assert sorted(answers.values()) == sorted(pairs.values())
    return answers


def induction(words, task):
    assert words.count("*") == 2
    assert words[-1] == "*"
    return {len(words) - 1: words[words.index("*") + 1]}


def selective_copy(words, task):
    sign = words.index("|")
    assert words[sign + 1 :] == ["."] * task.num_copied
    kept = [word for word in words[:sign] if word != "."]
    assert len(kept) == task.num_copied
    return {sign + 1 + i: word for i, word in enumerate(kept)}


def rewriting(order):
    def solve(words, task):
        sign = len(words) // 2
        assert words[sign:] == ["|"] + ["."] * (sign - 1)
        return {sign + i: word for i, word in enumerate(order(words[:sign]))}

    return solve


def ngram_memorisation(words, task):
    """The table is the task's own; that it is one and the same for all is checked below."""
    asked = [place for place, word in enumerate(words) if word == "?"]
    assert asked == list(range(task.n, len(words), task.n + 1))
    answers = {}
    for place in asked:
        number = 0
        for word in words[place - task.n : place]:
            number = number * task.num_keys + int(word.removeprefix("k"))
        answers[place] = task.symbols[task.values[number]]
    return answers


def parity(words, task):
    assert words[-1] == "="
    return {len(words) - 1: str(words.count("1") % 2)}


def running_parity(words, task):
    return {i: str(words[: i + 1].count("1") % 2) for i in range(len(words))}


def permutations(words, task):
    row, answers = list(range(task.num_items)), {}
    for place, word in enumerate(words):
        row = [row[int(item)] for item in word]
        answers[place] = "".join(map(str, row))
    return answers


CASES = {
    "recall": ("multi_query_recall", {"random_filler": False, "length": 24}, recall),
    "recall_tight": (
        "multi_query_recall",
        {"random_filler": False, "num_pairs": 4, "vocab_size": 10, "length": 16},
        recall,
    ),
    "induction": ("induction", {"length": 9}, induction),
    "selective_copy": ("selective_copy", {"num_copied": 5, "length": 20}, selective_copy),
    "copy_tight": ("selective_copy", {"num_copied": 3, "length": 7}, selective_copy),
    "reverse": ("reverse", {"length": 14}, rewriting(lambda words: words[::-1])),
    "sort": ("sort", {"length": 14}, rewriting(lambda words: sorted(words, key=int))),
    "memorisation": ("ngram_memorisation", {"length": 15, "n": 2}, ngram_memorisation),
    "memorisation_1": ("ngram_memorisation", {"length": 8, "n": 1}, ngram_memorisation),
    "parity": ("parity", {"length": 12}, parity),
    "permutations": ("permutations", {"length": 12}, permutations),
    "permutations_4": ("permutations", {"length": 5, "num_items": 4}, permutations),
    "running_parity": ("parity", {"length": 12, "cumulative": True}, running_parity),
}


def made(name):
    task, options, solver = CASES[name]
    return SYNTHETIC.build({"name": task, **options}), solver


def test_every_task_has_a_case():
    assert {task for task, _, _ in CASES.values()} == set(SYNTHETIC.names())


@pytest.mark.parametrize("name", CASES)
def test_a_slow_solver_finds_the_same_answers(name):
    task, solver = made(name)
    tokens, answers = task.draw(KeyedRandom(5, 6), 100, task.length)
    assert tokens.shape == answers.shape == (100, task.length)
    assert tokens.dtype == answers.dtype == np.int64
    for read, asked in zip(tokens, answers, strict=True):
        found = {i: task.symbols[a] for i, a in enumerate(asked) if a != IGNORED}
        assert found == solver([task.symbols[t] for t in read], task)


@pytest.mark.parametrize("name", CASES)
def test_every_word_is_used_and_has_a_name_of_its_own(name):
    task, _ = made(name)
    tokens, answers = task.draw(KeyedRandom(5, 6), 3000, task.length)
    used = {*np.unique(tokens), *np.unique(answers)} - {IGNORED}
    assert used == set(range(len(task.symbols)))
    assert len(set(task.symbols)) == len(task.symbols)
    assert all(word == "".join(word.split()) != "" for word in task.symbols)


def test_recall_with_random_filler_asks_the_same():
    plain = SYNTHETIC.build({"name": "multi_query_recall", "random_filler": False})
    filled = SYNTHETIC.build({"name": "multi_query_recall"})
    tokens, answers = plain.draw(KeyedRandom(1, 2), 50, 64)
    noisy, same = filled.draw(KeyedRandom(1, 2), 50, 64)
    assert (answers == same).all()
    assert (noisy == tokens)[tokens != 0].all()
    assert (noisy != 0)[tokens == 0].mean() > 0.9  # random tokens, of which one in 64 is the blank


def test_recall_asks_near_the_pairs_with_the_chance_of_the_power_law():
    """One pair in a long sequence: the share of each place is g^(a - 1), normalised."""
    task = SYNTHETIC.build({"name": "multi_query_recall", "num_pairs": 1, "length": 42})
    _, answers = task.draw(KeyedRandom(0, 0), 40_000, 42)
    places = (answers != IGNORED).argmax(axis=1)
    assert (places % 2 == 0).all()
    share = np.bincount((places - 2) // 2, minlength=20) / len(places)
    weights = np.arange(1, 21) ** (0.01 - 1)
    assert share == pytest.approx(weights / weights.sum(), abs=0.008)


def test_a_short_training_sequence_of_recall_has_fewer_pairs():
    task = SYNTHETIC.build({"name": "multi_query_recall", "length": 24, "min_length": 3})
    assert task.train_lengths == tuple(range(4, 25, 2))
    for length, pairs in ((4, 1), (10, 2), (16, 4), (24, 4)):
        _, answers = task.draw(KeyedRandom(0, 0), 50, length)
        assert ((answers != IGNORED).sum(axis=1) == pairs).all()


def test_a_table_is_the_same_for_every_sequence_and_another_for_another_seed():
    first, again, other = (
        SYNTHETIC.build({"name": "ngram_memorisation", "length": 63, "table_seed": seed})
        for seed in (0, 0, 1)
    )
    assert (first.values == again.values).all()
    assert (first.values != other.values).mean() > 0.8
    assert set(np.bincount(first.values)[first.num_keys :]) == {first.num_keys}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "multi_query_recall", "length": 31}, "data.length 31 does not fit: data.num_p"),
        ({"name": "multi_query_recall", "length": 12}, "needs an even number, 16 or more"),
        ({"name": "multi_query_recall", "vocab_size": 8}, "even and at least 10"),
        ({"name": "multi_query_recall", "num_pairs": 0}, "data.num_pairs must be at least 1"),
        ({"name": "selective_copy", "length": 32}, "data.num_copied 16 needs at least 33 tokens"),
        ({"name": "sort", "length": 9}, "must be even"),
        ({"name": "sort", "test_lengths": (8, 9)}, "data.test_lengths 9 does not fit"),
        ({"name": "sort", "test_lengths": (8, 8)}, "data.test_lengths names 8 twice"),
        ({"name": "sort", "length": 8, "min_length": 10}, "no more than data.length 8"),
        ({"name": "sort", "num_eval": 0}, "data.num_eval must be at least 1"),
        ({"name": "induction", "vocab_size": 2}, "data.vocab_size must be at least 3"),
        ({"name": "ngram_memorisation", "vocab_size": 32}, "must be odd"),
        ({"name": "ngram_memorisation", "length": 64}, "a multiple of 3"),
        ({"name": "ngram_memorisation", "n": 9}, "68,719,476,736 facts"),
        ({"name": "parity", "length": 1}, "at least 2 tokens"),
        ({"name": "permutations", "num_items": 6}, "data.num_items must be 2 to 5, got 6"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_what_cannot_be_is_refused(spec, message):
    with pytest.raises(DataError, match=message):
        SYNTHETIC.build(spec)
