"""Numbers as the report writes them: one way each, with a true minus sign and a dash for what is not known."""

from __future__ import annotations

import math

MISSING = "–"


def is_number(value: float | None) -> bool:
    """Whether a measured value is there and finite; a skipped training step has none."""
    return value is not None and math.isfinite(value)


def count(value: int | None) -> str:
    """Return a count with thousands separated: ``12,345``."""
    return MISSING if value is None else f"{value:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 as a percentage: 0.2594 -> ``25.9 %``."""
    return MISSING if share is None else f"{share * 100:.{digits}f} %"


def nats(value: float | None) -> str:
    """Return nats with three digits after the point: ``1.934``."""
    return MISSING if value is None else f"{value:.3f}"


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


def points(difference: float, standard_error: float | None) -> str:
    """Return a difference of shares in percentage points with its standard error: ``+3.1 ± 1.2``."""
    error = MISSING if standard_error is None else f"{standard_error * 100:.1f}"
    return f"{signed(difference * 100, 1)} ± {error}"


def nats_difference(difference: float, standard_error: float | None) -> str:
    """Return a difference in nats with its standard error: ``−0.214 ± 0.012``."""
    error = MISSING if standard_error is None else f"{standard_error:.3f}"
    return f"{signed(difference, 3)} ± {error}"
