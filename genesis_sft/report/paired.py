"""Inference on paired items: the same questions before and after, so an item's difficulty cancels in the difference.

==================  =============================  =====================================
what is compared    p-value                        95 % interval of the difference
==================  =============================  =====================================
right or wrong      McNemar's exact test           Tango's score interval
the same, in        sign flips of the clusters'    the same test inverted: all true
clusters (MMLU)     differences                    differences that it does not refuse
nats                studentized bootstrap, twice   the same tests inverted
==================  =============================  =====================================

``bench/paired_statistics.py`` simulates how often each is wrong. Draws are seeded: the same items give the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_sft.evals.error_bars import Z_95, clustered_mean_and_error, mean_and_error, ratio_and_error

ALPHA = 0.05
FEWEST_ITEMS = 10
"""Below, no claim is made: neither draws nor a standard error say much of so few."""

DRAWS = 4_999
"""Of signs or resamples. With the data themselves 5,000, of which ``ALPHA`` are 250 and half of it 125: exact ranks."""

FEWEST_FLIPS = 6
"""McNemar's exact test needs this many flips, all one way, to reach 5 %: 2 / 2**6 = 0.031, 2 / 2**5 = 0.063."""

Z_POWER_80 = 0.84
"""Standard errors between the 5 % threshold and a true difference that passes it four times out of five."""

_SEED = 0
_BLOCK = 2_000_000  # numbers drawn at once: memory stays small
_HALVINGS = 60

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """A difference of paired items, after less before.

    Attributes:
        value: The mean difference; of totals and sizes, the ratio of their sums.
        standard_error: None for fewer than two units.
        low, high: 95 % interval; None where so few units allow none.
        p_value: Two-sided, of no difference; None for fewer than two units of nats.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    p_value: float | None


def compare_outcomes(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Compare items that are right (1) or wrong (0) and independent of each other."""
    differences = _differences(before, after)
    n, to_right, to_wrong = len(differences), *count_flips(before, after)
    low, high = tango_interval(to_right, to_wrong, n)
    error = mean_and_error(differences)[1] if n > 1 else None
    return PairedDifference((to_right - to_wrong) / n, error, low, high, mcnemar(to_right, to_wrong))


def compare_in_clusters(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable], draws: int = DRAWS
) -> PairedDifference:
    """Compare items of which those in one cluster may move together, as questions of one subject do.

    The clusters are the units: if nothing changed on the whole, the sum of a cluster's differences is as likely to be
    d as -d. With all signs flipped at random, the p-value is the share of draws whose sum is at least as far from 0
    (Fisher's randomization test; for clusters Canay, Romano and Shaikh 2017, Econometrica 85:1013). It needs six
    clusters to reach 5 %. McNemar's test takes every item for independent and is far too bold here.

    The interval holds every difference theta for which the test of ``total - theta * size`` keeps p > 0.05. A draw of
    signs w is at least as far from 0 as the data just where theta lies between (S - s) / (N - n) and
    (S + s) / (N + n), with S and N the sums of totals and sizes, s and n the same sums with the signs of w; so the
    limits are ranks of these.

    Args:
        before: Outcomes, 0 to 1.
        after: Outcomes of the same items.
        clusters: The cluster of each item.
        draws: Of signs; 5 % of one more than these have to be a whole number.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    differences, where = _differences(before, after), [names[cluster] for cluster in clusters]
    totals = np.bincount(where, weights=differences)
    sizes = np.bincount(where).astype(np.float64)
    value, error = clustered_mean_and_error(differences, clusters)
    if len(names) < 2:
        return PairedDifference(value, None, None, None, 1.0)
    if not np.any(totals):
        # flipped signs of zeros know no spread; the score interval knows how often an item can change unseen
        return PairedDifference(value, error, *tango_interval(*count_flips(before, after), len(differences)), 1.0)
    signs = np.random.default_rng(_SEED).integers(0, 2, (draws, len(names))).astype(np.float64) * 2 - 1
    flipped, weights = signs @ totals, signs @ sizes  # (draws,)
    farther = int(np.count_nonzero(np.abs(flipped) >= abs(totals.sum()) - 1e-9))
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack(
            [(totals.sum() - flipped) / (sizes.sum() - weights), (totals.sum() + flipped) / (sizes.sum() + weights)]
        )
    same = np.abs(weights) >= sizes.sum()  # every sign alike: as far from 0 as the data, whatever theta is
    low, high = np.where(same, -np.inf, ends.min(0)), np.where(same, np.inf, ends.max(0))
    rank = round(ALPHA * (draws + 1))
    return PairedDifference(
        value,
        error,
        _finite(np.sort(low)[rank - 1]),
        _finite(np.sort(high)[-rank]),
        _p_value(farther, draws),
    )


def compare_totals(
    before: Sequence[float], after: Sequence[float], sizes: Sequence[int], draws: int = DRAWS
) -> PairedDifference:
    """Compare the ratio of ``sum(totals)`` to ``sum(sizes)``, e.g. nats a token; with sizes of 1, a mean.

    The studentized bootstrap over units (Davison and Hinkley, *Bootstrap Methods*, 1997, section 5.2): each draw takes
    n units with replacement and gives t* = (ratio* - ratio) / SE*; t is ratio / SE. Two tests are made of it (Hall
    1988, *Annals of Statistics* 16:927; the symmetric one in *JRSS B* 50:35):

    - symmetric: the share of draws with ``|t*| >= |t|``;
    - equal-tailed: twice the smaller of the shares with ``t* <= t`` and with ``t* >= t``.

    The p-value is the larger of the two, and the interval holds what either of theirs holds. Of few units each is too
    bold under one kind of law: the symmetric one where differences are skewed, as its errors all fall on one side, the
    equal-tailed one where single differences are very large.

    Args:
        before: One total a unit, e.g. the nats of a conversation.
        after: The same units.
        sizes: Their sizes, e.g. tokens; above 0.
        draws: Resamples; 2.5 % of one more than these have to be a whole number.
    """
    differences, n = _differences(before, after), len(sizes)
    value, error = ratio_and_error(differences, sizes)
    if n < 2:
        return PairedDifference(value, None, None, None, None)
    if not any(differences):
        return PairedDifference(0.0, 0.0, 0.0, 0.0, 1.0)
    if error <= 1e-12 * max(map(abs, differences)):  # all alike: their sign is all that can be tested
        return PairedDifference(value, error, None, None, mcnemar(n, 0))
    spread = np.concatenate(list(_studentized(np.array(differences), np.array(sizes, np.float64), value, draws)))
    alike = np.isnan(spread)  # a draw without a spread is as far from 0 as can be, on either side
    below, above = np.sort(np.where(alike, -np.inf, spread)), np.sort(np.where(alike, np.inf, spread))
    away, t = np.sort(np.abs(above)), value / error
    p_symmetric = _p_value(int(np.count_nonzero(away >= abs(t))), draws)
    p_tail = _p_value(int(min(np.count_nonzero(below <= t), np.count_nonzero(above >= t))), draws)
    rank = round(ALPHA * (draws + 1))
    return PairedDifference(
        value,
        error,
        _finite(value - error * max(away[-rank], above[-(rank // 2)])),
        _finite(value - error * min(-away[-rank], below[rank // 2 - 1])),
        min(1.0, max(p_symmetric, 2 * p_tail)),
    )


def _studentized(totals: Floats, sizes: Floats, value: float, draws: int) -> Iterator[Floats]:
    """Yield t* of all draws, in blocks; NaN for a draw whose units are all alike."""
    n = len(totals)
    columns = np.stack([totals, sizes, totals**2, totals * sizes, sizes**2], axis=1)  # (n, 5)
    random, rows = np.random.default_rng(_SEED), max(1, _BLOCK // n)
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        picked = random.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        taken = np.bincount(picked.ravel(), minlength=count * n).reshape(count, n)  # how often each unit was drawn
        total, size, squares, products, size_squares = (taken @ columns).T
        ratio = total / size
        residuals = squares - 2 * ratio * products + ratio**2 * size_squares
        floor = 1e-12 * squares  # all that is left of a draw of one unit only is rounding
        error = np.sqrt(n / (n - 1) * np.where(residuals > floor, residuals, 0.0)) / size
        yield np.where(error > 0, (ratio - value) / np.where(error > 0, error, 1.0), np.nan)


def _finite(limit: float) -> float | None:
    return float(limit) if math.isfinite(limit) else None


def _p_value(farther: int, draws: int) -> float:
    """Return the share of draws at least as far from 0 as the data, which count as a draw themselves: never 0."""
    return (1 + farther) / (draws + 1)


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [y - x for x, y in zip(before, after, strict=True)]


def count_flips(before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
    """Return how many items went from wrong to right, and from right to wrong."""
    differences = _differences(before, after)
    return sum(one > 0 for one in differences), sum(one < 0 for one in differences)


def mcnemar(one_way: int, other_way: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (1947, Psychometrika 12:153).

    Only items that flipped tell anything; without a change each flip goes either way like a fair coin.
    The p-value is ``2 * P(X <= min)`` of a binomial with ``n = one_way + other_way`` and 1/2, at most 1.
    """
    flips = one_way + other_way
    tail = way = 1  # binomial coefficients from 0 up, each from the one before
    for k in range(1, min(one_way, other_way) + 1):
        way = way * (flips - k + 1) // k
        tail += way
    return float(min(1.0, 2 * tail / 2**flips))


def tango_interval(to_right: int, to_wrong: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a difference of paired shares (Tango 1998, Statistics in Medicine 17:891).

    All differences d with (b - c - n d)^2 <= z^2 n (2 q + d (1 - d)), where b items went to right, c to wrong, and q is
    the likeliest share that goes to wrong if d is true: the larger root of 2 n q^2 + B q + C = 0 with
    B = (2 n - b + c) d - b - c and C = -c d (1 - d). Found by halving, to 1e-15.
    """
    value = (to_right - to_wrong) / n
    low = _halve(lambda d: not _allows(d, to_right, to_wrong, n), -1.0, value)
    return low, _halve(lambda d: _allows(d, to_right, to_wrong, n), value, 1.0)


def _allows(difference: float, to_right: int, to_wrong: int, n: int) -> bool:
    linear = (2 * n - to_right + to_wrong) * difference - to_right - to_wrong
    constant = -to_wrong * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    return (to_right - to_wrong - n * difference) ** 2 <= Z_95**2 * max(0.0, variance)


def _halve(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where ``holds``, which is true from ``low`` on, ends; ``high`` if it never does."""
    if holds(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return p-values corrected for their number: the k-th smallest times (m - k + 1), never falling, at most 1.

    Claims made below 5 % are then all right in 95 of 100 families where nothing changed, however the tests hang
    together (Holm 1979, Scandinavian Journal of Statistics 6:65). What has no p-value stays without, and is no test.
    """
    corrected: list[float | None] = [None] * len(p_values)
    tests = sorted((p_value, place) for place, p_value in enumerate(p_values) if p_value is not None)
    largest = 0.0
    for done, (p_value, place) in enumerate(tests):
        largest = corrected[place] = max(largest, min(1.0, p_value * (len(tests) - done)))
    return tuple(corrected)


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
