"""Word times from attention, against examples that are written out."""

import itertools

import numpy as np
import pytest

from attnkit.tasks.speech.boundaries import FLOOR, stretches, word_times

WEIGHTS = np.array(
    [  # silence, silence, a, a, b, c, c, silence
        [0.02, 0.02, 0.60, 0.30, 0.02, 0.02, 0.01, 0.01],
        [0.02, 0.02, 0.02, 0.10, 0.80, 0.02, 0.01, 0.01],
        [0.01, 0.01, 0.02, 0.02, 0.04, 0.50, 0.30, 0.10],
        [0.01, 0.01, 0.01, 0.01, 0.01, 0.05, 0.10, 0.80],
    ]
)


def test_the_path_of_a_map_that_is_written_out():
    assert stretches(WEIGHTS).tolist() == [[2, 3], [4, 4], [5, 6], [7, 7]]
    many = stretches(np.stack([WEIGHTS, WEIGHTS[:, ::-1]])[None])
    assert many.shape == (1, 2, 4, 2)
    assert many[0, 0].tolist() == [[2, 3], [4, 4], [5, 6], [7, 7]]


def test_the_path_is_the_best_of_all():
    """Every path through small maps is tried."""
    draw = np.random.default_rng(0)
    for rows, columns in ((1, 4), (3, 4), (4, 3)):
        weights = draw.dirichlet(np.ones(columns), size=rows)
        gains = np.log(np.maximum(weights, FLOOR) * columns)

        def gain(path, gains=gains):
            return sum(gains[t, a : b + 1].sum() for t, (a, b) in enumerate(path))

        spans = [(a, b) for a in range(columns) for b in range(a, columns)]
        paths = [
            path
            for path in itertools.product(spans, repeat=rows)
            if all(b[0] - a[1] in (0, 1) for a, b in itertools.pairwise(path))
        ]
        assert gain(stretches(weights).tolist()) == pytest.approx(max(map(gain, paths)))


def test_words_begin_and_end_with_their_letters():
    """Positions are 40 ms long, and centred at their number times that."""
    letters = np.array([[2, 3], [4, 4], [4, 5], [7, 9], [10, 12]])
    assert np.allclose(word_times("ab cd", letters[[0, 1, 2, 3, 4]]), [(0.06, 0.18), (0.26, 0.5)])
    assert np.allclose(word_times("a a a", letters), [(0.06, 0.14), (0.14, 0.22), (0.38, 0.5)])
