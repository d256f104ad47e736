"""Estimates over seeds: means with intervals, paired differences, and Holm's correction.

All tests are two-sided at the 5 % level. References: Student's distribution for integer degrees of
freedom, Abramowitz and Stegun 26.7.3 and 26.7.4; the bootstrap of a studentised mean, Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 12, in its symmetric form (Hall 1988);
Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.05
"""Significance level: the rate at which equal variants may be called different."""

BOOTSTRAP_FROM = 16
"""Least number of pairs for the bootstrap: from here on it has the power of Student's interval, and
fewer false verdicts on skewed differences (`benchmarks/verdicts.py`).
"""

RESAMPLES = 10_000

Method = Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its uncertainty.

    Attributes:
        mean: over the seeds.
        n: number of seeds.
        half_width: half the width of the 95 % interval; None for a single seed.
        p: p value of the null hypothesis that the mean is zero; None for a single seed.
        method: how the interval was computed; None for a single seed.
    """

    mean: float
    n: int
    half_width: float | None = None
    p: float | None = None
    method: Method | None = None

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width


def t_estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean with Student's interval, exact for normally distributed values.

    Args:
        values: at least one, all finite.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, 1)
    error = standard_error(values)
    if error == 0:
        return Estimate(mean, n, 0.0, 1.0 if mean == 0 else 0.0, "t")
    p = 1 - t_central(abs(mean) / error, n - 1)
    return Estimate(mean, n, t_quantile(n - 1) * error, p, "t")


def bootstrap_estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """Returns the mean with the symmetric studentised bootstrap interval, for values that need not
    be normally distributed.

    For each resample, computes the distance of its mean from the sample mean in its own standard
    errors. The 95 % quantile of these distances replaces Student's factor.

    Args:
        values: at least two, all finite.
        seed: of the resampling; equal values always give the same interval.
    """
    import numpy as np

    n = len(values)
    mean, error = math.fsum(values) / n, standard_error(values)
    if error == 0:
        return Estimate(mean, n, 0.0, 1.0 if mean == 0 else 0.0, "bootstrap")
    centred = np.asarray(values) - mean
    resamples = centred[np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))]
    spread = resamples.std(axis=1, ddof=1) / math.sqrt(n)
    # A resample of equal values has no spread: its distance is infinite.
    distance = np.full(RESAMPLES, np.inf)
    np.divide(np.abs(resamples.mean(axis=1)), spread, out=distance, where=spread > 0)
    factor = float(np.sort(distance)[math.ceil((1 - LEVEL) * RESAMPLES) - 1])
    beyond = int((distance >= abs(mean) / error).sum())
    return Estimate(mean, n, factor * error, (1 + beyond) / (1 + RESAMPLES), "bootstrap")


def paired_difference(differences: Sequence[float]) -> Estimate:
    """Returns the mean of differences, one per seed, with Student's interval for few seeds, else
    with the bootstrap interval.
    """
    if len(differences) < BOOTSTRAP_FROM:
        return t_estimate(differences)
    return bootstrap_estimate(differences)


def standard_error(values: Sequence[float]) -> float:
    """Returns the standard error of the mean; 0 if all values are equal."""
    n = len(values)
    if min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p values adjusted by Holm's procedure, which controls the family-wise error rate:
    compare them with `LEVEL`.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def t_central(t: float, df: int) -> float:
    """Returns the probability mass of Student's distribution between -t and t.

    Args:
        t: at least 0.
        df: degrees of freedom, at least 1.
    """
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))


@functools.cache
def t_quantile(df: int) -> float:
    """Returns Student's factor, within which 95 % of the distribution lie."""
    low, high = 1.9, 12.8  # below that of infinitely many degrees of freedom, above that of one
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if t_central(middle, df) < 1 - LEVEL else (low, middle)
    return high
