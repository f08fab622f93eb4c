"""Values with their standard errors and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

_Z_95 = 1.96


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


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927, JASA 22:209).

        (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),  p = count / n,  z = 1.96

    Two of two give 0.34 to 1: two answers say little.
    """
    share, z = count / n, _Z_95
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
