import numpy as np

from attnkit.data.keyed_random import KeyedRandom


def test_the_numbers_stay_the_same_across_versions_of_numpy():
    assert KeyedRandom(3, 4).below(1000, 2, 3).tolist() == [[400, 994, 199], [351, 331, 958]]
    assert KeyedRandom(3, 4).distinct(10, 2, 4).tolist() == [[2, 6, 7, 8], [0, 7, 5, 1]]
    assert KeyedRandom(3, 4).weighted(np.arange(1.0, 9.0), 2, 3).tolist() == [[3, 0, 5], [5, 4, 6]]


def test_both_keys_count():
    drawn = [KeyedRandom(a, b).below(2**62, 4).tolist() for a in (0, 1) for b in (0, 1)]
    assert len({n for row in drawn for n in row}) == 16


def test_distinct_numbers_are_distinct_and_in_any_order():
    drawn = KeyedRandom(0, 0).distinct(5, 6000, 3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    for column in drawn.T:
        assert np.abs(np.bincount(column, minlength=5) / 6000 - 0.2).max() < 0.02
    assert sorted(KeyedRandom(0, 1).distinct(4, 1, 4)[0].tolist()) == [0, 1, 2, 3]
    assert KeyedRandom(0, 0).distinct(5, 3, 0).shape == (3, 0)


def test_weights_are_chances_one_after_the_other():
    """Against drawing without replacement, as it is defined: the first by the weights, the second
    by those that are left.
    """
    weights = np.array([4.0, 2.0, 1.0, 1.0])
    drawn = KeyedRandom(7, 7).weighted(weights, 20_000, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    share = np.zeros((4, 4))
    np.add.at(share, (drawn[:, 0], drawn[:, 1]), 1 / len(drawn))
    for i in range(4):
        for j in range(4):
            chance = 0 if i == j else weights[i] / 8 * weights[j] / (8 - weights[i])
            assert abs(share[i, j] - chance) < 0.012
