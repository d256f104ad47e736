import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from attnkit.data.ngrams import ngram_floors


def slow_floors(
    train: list[int], val: list[int], vocab_size: int, orders: list[int]
) -> dict[int, float]:
    """The definition, token by token, with dictionaries."""
    counts: Counter[tuple[int, ...]] = Counter()
    followers: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for order in range(1, max(orders) + 1):
        for end in range(order, len(train) + 1):
            gram = tuple(train[end - order : end])
            counts[gram] += 1
            followers[gram[:-1]][gram[-1]] += 1

    def probability(context: tuple[int, ...], token: int, order: int) -> float:
        if order == 0:
            return 1 / vocab_size
        shorter = probability(
            context[1:] if len(context) == order - 1 else context, token, order - 1
        )
        if len(context) < order - 1 or context not in followers:
            return shorter
        seen = followers[context]
        return (counts[(*context, token)] + len(seen) * shorter) / (seen.total() + len(seen))

    floors = {}
    for order in orders:
        losses = [
            -math.log(probability(tuple(val[max(0, place - order + 1) : place]), token, order))
            for place, token in enumerate(val)
        ]
        floors[order] = sum(losses) / len(losses)
    return floors


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_floors_are_those_of_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Skewed, and with tokens in the validation part that training never sees.
    train = np.minimum(generator.geometric(0.4, 300) - 1, 6)
    val = np.minimum(generator.geometric(0.3, 120) - 1, 8)
    expected = slow_floors(train.tolist(), val.tolist(), 9, [1, 2, 3, 5])
    assert ngram_floors(train, val, 9) == pytest.approx(expected, abs=1e-12)


def test_counting_across_the_border_of_the_splits_would_be_cheating() -> None:
    # 7 follows 6 only where training text and validation text meet.
    train, val = np.array([1, 2, 1, 2, 6]), np.array([7, 6, 7])
    expected = slow_floors(train.tolist(), val.tolist(), 8, [2])
    assert ngram_floors(train, val, 8, [2]) == pytest.approx(expected, abs=1e-12)


def test_a_uniform_text_cannot_be_predicted() -> None:
    generator = np.random.default_rng(0)
    train, val = generator.integers(0, 16, 50_000), generator.integers(0, 16, 5000)
    assert ngram_floors(train, val, 16, [1])[1] == pytest.approx(math.log(16), abs=0.003)


def test_the_floors_of_tiny_shakespeare(shakespeare_root: str) -> None:
    text = Path(shakespeare_root, "tinyshakespeare", "input.txt").read_bytes()
    ids = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)[1]
    train, val = ids[:1_003_854], ids[1_003_854:]
    # The whole split; confirmed by a separate program with dictionaries.
    whole = {1: 3.3473, 2: 2.4858, 3: 2.0492, 5: 1.6688}
    assert ngram_floors(train, val, 65) == pytest.approx(whole, abs=2e-4)
    # The numbers that went round for this text are those of its first 60,000 characters.
    beginning = {1: 3.335, 2: 2.471, 3: 1.988, 5: 1.562}
    assert ngram_floors(train, val[:60_000], 65) == pytest.approx(beginning, abs=1e-3)
