"""Accuracies against chance, two-sided, in standard errors of the score.

Of many scores at chance a few lie two standard errors off by luck. So a claim needs more than ``CLAIM`` of them, and
p < ``ALPHA`` after Holm's correction over all accuracies of the file (Holm 1979, Scandinavian Journal of Statistics
6:65).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genesis_sft.report import numbers
from genesis_sft.report.paired import ALPHA, FEWEST_ITEMS, holm
from genesis_sft.report.scores import JudgedRow, ScoreRow, judged

CLAIM = 2.0
"""Standard errors from chance that a claim needs at least."""


@dataclass(frozen=True)
class WholeSet:
    """A benchmark's items, and what guessing scores on them: 1 / options, which a few ARC questions differ from."""

    num_items: int
    chance: float | None


WHOLE_SETS = {
    "arc_challenge": WholeSet(1_172, 0.25),
    "arc_easy": WholeSet(2_376, 0.25),
    "hellaswag": WholeSet(10_042, 0.25),
    "lambada_openai": WholeSet(5_153, None),
    "mmlu": WholeSet(14_042, 0.25),
    "piqa": WholeSet(1_838, 0.5),
    "winogrande": WholeSet(1_267, 0.5),
}

_LEAST_ERROR = 1e-9
"""A standard error below this was rounded to 0, or means nothing."""


def num_items(row: ScoreRow) -> int | None:
    """Return the items of a score: as the file states them, else of the whole set; None where neither is known."""
    return row.n or (WHOLE_SETS[row.task].num_items if row.task in WHOLE_SETS else None)


def chance_of(row: ScoreRow) -> float | None:
    """Return what guessing scores: as the file states it, else nominally; None where neither is known."""
    if row.chance is not None:
        return row.chance
    return WHOLE_SETS[row.task].chance if row.task in WHOLE_SETS else None


def against_chance(row: ScoreRow) -> JudgedRow:
    """Return a row with its distance from chance; what may be said depends on the others, see :func:`correct`."""
    n, chance, value = num_items(row), chance_of(row), row.value
    assert value is not None
    assert chance is not None
    test = judged(row, "open", "", n=n, chance=chance)
    if row.standard_error and row.standard_error > _LEAST_ERROR:
        test = replace(test, standard_error=row.standard_error, standard_error_from="file")
    elif n is not None and 0 < value < 1:
        test = replace(test, standard_error=_binomial_error(value, n), standard_error_from="computed")
    elif n is not None and 0 < chance < 1:
        test = replace(test, standard_error=_binomial_error(chance, n), standard_error_from="at chance")
    if not test.standard_error:
        return replace(test, kind="not judged", text="not judged: neither value nor chance has a standard error")
    distance = (value - chance) / test.standard_error
    return replace(test, standard_errors_from_chance=distance, p_value=math.erfc(abs(distance) / math.sqrt(2)))


def _binomial_error(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / n)


def correct(rows: Sequence[JudgedRow]) -> tuple[JudgedRow, ...]:
    """Return the rows with Holm's p-values over all that have one; and what they then say."""
    p_holm = holm([row.p_value for row in rows])
    num_tests = sum(one is not None for one in p_holm)
    return tuple(
        row if corrected is None else _say(replace(row, p_holm=corrected), num_tests)
        for row, corrected in zip(rows, p_holm, strict=True)
    )


def _say(row: JudgedRow, num_tests: int) -> JudgedRow:
    distance, p_holm = row.standard_errors_from_chance, row.p_holm
    assert distance is not None
    assert p_holm is not None
    side = "above" if distance > 0 else "below"
    items = f" of {row.n:,}" if row.n else ""
    numbers_behind = f"{numbers.percent(row.value)}{items} against {numbers.percent(row.chance)}"
    steps = f"{abs(distance):.1f} standard errors"
    corrected = f"; p = {p_holm:.2g} by Holm over {num_tests} accuracies" if num_tests > 1 else ""
    if row.n is not None and row.n < FEWEST_ITEMS:
        return replace(row, kind="open", text=f"fewer than {FEWEST_ITEMS} items allow no claim ({numbers_behind})")
    if abs(distance) <= CLAIM:
        return replace(row, kind="chance", text=f"not different from chance ({steps} {side}; {numbers_behind})")
    if p_holm >= ALPHA:
        return replace(row, kind="open", text=f"cannot be told from luck ({steps} {side}; {numbers_behind}{corrected})")
    text = f"{side} chance ({steps}; {numbers_behind}{corrected})"
    if side == "below":
        return replace(row, kind="below", text=f"{text}: guessing does better; are the answers read right?")
    return replace(row, kind="above", text=text)
