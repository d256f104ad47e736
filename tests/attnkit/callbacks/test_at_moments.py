from itertools import pairwise

import pytest

from attnkit.callbacks.at_moments import log_moments
from attnkit.understanding.clinic_callback import HeadClinic


@pytest.mark.parametrize(
    ("total", "count"), [(0, 20), (1, 20), (5, 20), (2000, 2), (2000, 20), (30000, 200), (250, 200)]
)
def test_first_and_last_steps_and_the_asked_number_of_different_ones(total, count):
    steps = log_moments(total, count)
    assert steps[0] == 0
    assert steps[-1] == total
    assert steps == sorted(set(steps))
    assert len(steps) == min(count, total + 1)


def test_early_steps_are_dense_and_late_ones_sparse():
    steps = log_moments(2000, 20)
    assert steps[:4] == [0, 1, 2, 3]
    gaps = [after - before for before, after in pairwise(steps)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 500


@pytest.mark.parametrize(("total", "count"), [(-1, 20), (10, 1), (10, 201)])
def test_impossible_requests_are_refused(total, count):
    with pytest.raises(ValueError, match=str(min(total, count) if total < 0 else count)):
        log_moments(total, count)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="num_moments must be at least 1, got 0"):
        HeadClinic(num_moments=0)
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        HeadClinic(every_n_steps=0)
