"""Numbers as the report writes them: one way each, with a true minus sign and a dash for what is not known."""

from __future__ import annotations

import math
from typing import TypeGuard

MISSING = "–"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a measured value is there and finite; a skipped training step has none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def count(value: int | None) -> str:
    """Return a count with thousands separated: ``12,345``."""
    return MISSING if value is None else f"{value:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 as a percentage: 0.2594 -> ``25.9 %``."""
    return MISSING if share is None else f"{share * 100:.{digits}f} %"


def nats(value: float | None) -> str:
    """Return nats with three digits after the point: ``1.934``."""
    return MISSING if value is None else f"{_minus(value, 3)}{abs(value):.3f}"


def perplexity(nats_per_word: float) -> str:
    """Return exp of the nats, to three significant digits: ``57.3``, ``3,360,000``, ``1.5e+12``."""
    if nats_per_word > math.log(1e9):
        return f"10^{nats_per_word / math.log(10):.0f}"
    value = math.exp(nats_per_word)
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{round(value, 2 - math.floor(math.log10(value))):,.{digits}f}"


def signed(value: float, digits: int) -> str:
    """Return a number with its sign: ``+3.1``, ``−0.214``, ``0.0`` without a sign."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def points_interval(difference: float, low: float | None, high: float | None) -> str:
    """Return a difference of shares in percentage points with its 95 % interval: ``+3.1 (0.7 to 5.5)``."""
    return _with_interval(difference * 100, low, high, scale=100, digits=1)


def nats_interval(difference: float, low: float | None, high: float | None) -> str:
    """Return a difference in nats with its 95 % interval: ``−0.214 (−0.238 to −0.190)``."""
    return _with_interval(difference, low, high, scale=1, digits=3)


def share_interval(low: float, high: float) -> str:
    """Return the interval of a share in per cent: ``74–95 %``."""
    return f"{low * 100:.0f}–{high * 100:.0f} %"


def p_value(value: float | None) -> str:
    """Return a p-value with two significant digits: ``0.034``, ``< 0.001``."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _with_interval(difference: float, low: float | None, high: float | None, *, scale: float, digits: int) -> str:
    if low is None or high is None:
        return signed(difference, digits)
    ends = (f"{_minus(end * scale, digits)}{abs(end * scale):.{digits}f}" for end in (low, high))
    return f"{signed(difference, digits)} ({' to '.join(ends)})"


def _minus(value: float, digits: int) -> str:
    """Return a true minus sign for what is below 0 after rounding."""
    return "−" if float(f"{value:.{digits}f}") < 0 else ""
