"""The statistics behind the comparison: few, standard, and each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genesis_sft.evals.error_bars import mean_and_error, ratio_and_error, wilson_interval

Z_95 = 1.96
"""Standard errors that a 95 % interval reaches to each side (normal distribution)."""

Z_POWER_80 = 0.84
"""Standard errors between the 5 % threshold and a true difference that passes it four times out of five."""


@dataclass(frozen=True)
class Share:
    """How many of ``n`` did something, with the Wilson interval (95 %)."""

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """Return the share itself, 0 to 1."""
        return self.count / self.n


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; exact in the sum."""
    return math.fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """Return the value in the middle; of an even number of values, the mean of the two."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of a mean, sd / sqrt(n) with the sample sd (n - 1); None for fewer than two values."""
    return mean_and_error(values)[1] if len(values) >= 2 else None


def ratio_standard_error(totals: Sequence[float], sizes: Sequence[int]) -> float | None:
    """Return the standard error of ``sum(totals) / sum(sizes)`` over independent units; None for fewer than two.

    A ratio of two sums is not a mean of ratios: long conversations weigh more. Formula and source stand with
    :func:`genesis_sft.evals.error_bars.ratio_and_error`; here the totals are differences of paired totals, the residual
    of a conversation is ``difference_i - ratio * size_i``.
    """
    return ratio_and_error(totals, sizes)[1] if len(totals) >= 2 else None


def wilson(count: int, n: int) -> Share:
    """Return a share with its Wilson score interval (95 %), which stays in [0, 1] at 0 and at n."""
    low, high = wilson_interval(count, n)
    return Share(count, n, low, high)


def sign_test(one_way: int, other_way: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (1947, Psychometrika 12:153).

    Only items that flipped tell anything; without a change each flip goes either way like a fair coin.
    The p-value is ``2 * P(X <= min)`` of a binomial with ``n = one_way + other_way`` and 1/2, at most 1.
    """
    flips = one_way + other_way
    tail = sum(math.comb(flips, k) for k in range(min(one_way, other_way) + 1))
    return float(min(1.0, 2 * tail / 2**flips))


def smallest_visible(paired_standard_error: float | None, floor: float = 0.0) -> float | None:
    """Return the true difference that would have been found four times out of five, testing at 5 %.

        (z_0.975 + z_0.80) * SE = (1.96 + 0.84) * SE

    after Miller, *Adding Error Bars to Evals* (2024, arXiv:2411.00640), with the paired standard error that was
    found. ``floor`` is a bound from below: where few items flipped the standard error is an underestimate.
    None when there is no standard error.
    """
    if paired_standard_error is None:
        return None
    return max((Z_95 + Z_POWER_80) * paired_standard_error, floor)
