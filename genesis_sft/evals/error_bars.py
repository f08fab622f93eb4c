"""Values with their standard errors and intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Z_95 = 1.96
"""Standard errors that a 95 % interval reaches to each side (normal distribution)."""


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


def mean_and_error(items: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, sd / sqrt(n) with the sample sd (n - 1); 0 for a single item."""
    n = len(items)
    mean = math.fsum(items) / n
    if n < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((item - mean) ** 2 for item in items) / (n - 1) / n)


def ratio_and_error(totals: Sequence[float], sizes: Sequence[int]) -> tuple[float, float]:
    """Return ``sum(totals) / sum(sizes)`` and its standard error over independent units; 0 for a single one.

    Linearised (Cochran, *Sampling Techniques*, 3rd ed. 1977, section 2.11): with R the ratio,

        SE(R) = sqrt(n / (n - 1) * sum((total_i - R * size_i) ** 2)) / sum(sizes)
    """
    n, size = len(totals), sum(sizes)
    ratio = math.fsum(totals) / size
    if n < 2:
        return ratio, 0.0
    squares = math.fsum((total - ratio * part) ** 2 for total, part in zip(totals, sizes, strict=True))
    return ratio, math.sqrt(n / (n - 1) * squares) / size


def clustered_mean_and_error(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Return the mean of all items and its standard error where items of a cluster are not independent.

    The cluster-robust error (Miller, *Adding Error Bars to Evals*, 2024, arXiv:2411.00640, section 2.2), with the usual
    factor for few clusters, is that of a ratio with clusters as units; with m the mean and C clusters:

        SE(m) = sqrt(C / (C - 1) * sum over clusters of (sum of (value - m)) ** 2) / n

    It holds the spread between clusters and the spread within. Of a single cluster the items count as independent, as
    nothing is known of the spread between.

    Args:
        values: One an item.
        clusters: The cluster of each item, e.g. MMLU's subject; in any order.

    Example:
        ``clustered_mean_and_error([1, 1, 0, 0], ["law", "law", "art", "art"])`` is ``(0.5, 0.5)``: two independent
        observations rather than four.
    """
    totals: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        totals.setdefault(cluster, []).append(value)
    if len(totals) < 2:
        return mean_and_error(values)
    return ratio_and_error([math.fsum(part) for part in totals.values()], [len(part) for part in totals.values()])


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927, JASA 22:209).

        (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),  p = count / n,  z = 1.96

    Two of two give 0.34 to 1: two answers say little.
    """
    share, z = count / n, Z_95
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def wilson(count: int, n: int) -> Share:
    """Return a share with its Wilson score interval (95 %), which stays in [0, 1] at 0 and at n."""
    return Share(count, n, *wilson_interval(count, n))
