"""The numbers against published tables, and what they promise against simulated studies."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from attnkit.ablation.estimates import (
    BOOTSTRAP_FROM,
    bootstrap_estimate,
    holm,
    paired_difference,
    t_central,
    t_estimate,
    t_quantile,
)


@pytest.mark.parametrize(
    ("df", "factor"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (10, 2.228), (29, 2.045),
     (30, 2.042), (120, 1.980)],
)  # fmt: skip
def test_students_factor_is_that_of_the_tables(df, factor):
    assert t_quantile(df) == pytest.approx(factor, abs=5e-4)
    assert t_central(t_quantile(df), df) == pytest.approx(0.95, abs=1e-9)


@pytest.mark.parametrize(
    ("t", "df", "two_sided"),
    [(63.657, 1, 0.01), (9.925, 2, 0.01), (3.499, 7, 0.01), (1.886, 2, 0.2), (5.408, 7, 0.001)],
)
def test_p_values_are_those_of_the_tables(t, df, two_sided):
    assert 1 - t_central(t, df) == pytest.approx(two_sided, rel=2e-3)


def test_an_interval_by_hand():
    """1, 2, 3, 4: standard error sqrt(5/3)/2, three degrees of freedom."""
    found = t_estimate([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)
    assert (found.low, found.high) == (2.5 - found.half_width, 2.5 + found.half_width)


def test_what_has_no_spread():
    assert t_estimate([0.5]).half_width is None
    same = t_estimate([0.0, 0.0, 0.0])
    assert (same.half_width, same.p) == (0.0, 1.0)
    assert t_estimate([1.0, 1.0, 1.0]).p == 0.0
    assert bootstrap_estimate([0.0] * 30).p == 1.0


def test_interval_and_p_value_agree():
    """Zero lies outside the 95 % interval exactly where p is below 5 %, whichever method."""
    rng = np.random.default_rng(0)
    verdicts = set()
    for shift in (0.0, 0.25, 0.5, 0.75, 1.0):
        for n in (2, 5, 8, BOOTSTRAP_FROM, 30):
            found = paired_difference(list(rng.normal(shift, 1, n)))
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
            assert found.method == ("t" if n < BOOTSTRAP_FROM else "bootstrap")
            verdicts.add((found.method, found.p < 0.05))
    assert len(verdicts) == 4


def test_the_bootstrap_is_the_same_each_time_and_near_students():
    values = list(np.random.default_rng(1).normal(0.1, 1, 40))
    first = bootstrap_estimate(values)
    assert first == bootstrap_estimate(values)
    assert first.half_width == pytest.approx(t_estimate(values).half_width, rel=0.1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


SIMULATION = Path(__file__).parents[3] / "benchmarks/verdicts.py"


def test_verdicts_keep_their_word_on_recorded_losses():
    """Studies of 8 seeds drawn from 40 real runs: what is the same is called different in at most
    5 %, and a planted difference of two standard deviations is found in at least 80 %.
    """
    simulation = runpy.run_path(str(SIMULATION))
    losses = np.array(simulation["LOSSES"])
    called, any_called, found = simulation["rates"](losses, variants=1, seeds=8, plans=400)
    assert 0.01 < called <= 0.05
    assert found >= 0.8
    called, any_called, _ = simulation["rates"](losses, variants=4, seeds=8, plans=200)
    assert called <= any_called <= 0.06
