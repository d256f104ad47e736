"""What seeds can tell: means with intervals, paired differences, and Holm's correction.

Everything is two-sided, at 95 % and 5 %. Formulas: Student's distribution for whole degrees of
freedom, Abramowitz and Stegun 26.7.3 and 26.7.4; the bootstrap of a studentised mean, Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 12, in its symmetric form (Hall 1988);
Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.05
"""How often a difference that is none may be called one."""

BOOTSTRAP_FROM = 16
"""Pairs from which a difference is judged by the bootstrap: it finds as much as Student's interval
then, and is wrong less often where differences are skewed (`benchmarks/verdicts.py`).
"""

RESAMPLES = 10_000

Method = Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how well it is known.

    Attributes:
        mean: over the seeds.
        n: how many seeds.
        half_width: the 95 % interval is the mean plus and minus this; None for a single seed.
        p: how probable so large a mean would be were the true one zero; None for a single seed.
        method: how the interval was computed; None for a single seed.
    """

    mean: float
    n: int
    half_width: float | None = None
    p: float | None = None
    method: Method | None = None

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width


def t_estimate(values: Sequence[float]) -> Estimate:
    """The mean with Student's interval, right at any number of values that scatter normally.

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
    """The mean with the symmetric studentised bootstrap interval, for values that need not scatter
    normally.

    Each resample's mean is measured from the true mean in the resample's own standard errors; how
    far 95 % of them lie replaces Student's factor.

    Args:
        values: at least two, all finite.
        seed: of the resampling; the same values always give the same interval.
    """
    import numpy as np

    n = len(values)
    mean, error = math.fsum(values) / n, standard_error(values)
    if error == 0:
        return Estimate(mean, n, 0.0, 1.0 if mean == 0 else 0.0, "bootstrap")
    centred = np.asarray(values) - mean
    drawn = centred[np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))]
    spread = drawn.std(axis=1, ddof=1) / math.sqrt(n)
    # A resample of equal values has no spread: it lies as far out as can be.
    distance = np.full(RESAMPLES, np.inf)
    np.divide(np.abs(drawn.mean(axis=1)), spread, out=distance, where=spread > 0)
    factor = float(np.sort(distance)[math.ceil((1 - LEVEL) * RESAMPLES) - 1])
    beyond = int((distance >= abs(mean) / error).sum())
    return Estimate(mean, n, factor * error, (1 + beyond) / (1 + RESAMPLES), "bootstrap")


def paired_difference(differences: Sequence[float]) -> Estimate:
    """The mean of differences, one a seed: Student's for few seeds, the bootstrap for many."""
    if len(differences) < BOOTSTRAP_FROM:
        return t_estimate(differences)
    return bootstrap_estimate(differences)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; values that are equal have none."""
    n = len(values)
    if min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values after correction for their number: below 5 % means different, and the chance
    of a single false difference among all of them stays at 5 %.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def t_central(t: float, df: int) -> float:
    """The share of Student's distribution between -t and t.

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


def t_quantile(df: int) -> float:
    """Student's factor: 95 % of the distribution lie within it."""
    low, high = 1.9, 12.8  # of infinitely many degrees of freedom, and of one
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if t_central(middle, df) < 1 - LEVEL else (low, middle)
    return high
