"""The plots of scores and of the mixture: scores before and after on one line, and bars.

What a mark means never hangs on its colour alone: before is a ring, after a disc, chance a dotted line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genesis_sft.evals.error_bars import Z_95
from genesis_sft.report import numbers
from genesis_sft.report.changes import RateChange, TaskChange
from genesis_sft.report.drawing import across, bar, circle, figure, line, round_scale, short, text

_ROW, _AXIS = 50.0, 24.0
_LONGEST_BAR = 46.0
"""Per cent of the width; the rest is for the label behind it."""


@dataclass(frozen=True)
class ScorePair:
    """A share before and after, each with its 95 % interval where there is one; 0 to 1."""

    name: str
    before: float
    before_interval: tuple[float, float] | None
    after: float
    after_interval: tuple[float, float] | None
    chance: float | None = None


def plot_tasks(name: str, tasks: Sequence[TaskChange]) -> str:
    """Draw before -> after for each benchmark of one surface that is a share, with 95 % intervals and chance.

    Returns:
        SVG text; ``""`` where no benchmark is a share of right answers.
    """
    pairs = [
        ScorePair(
            task_label(task),
            task.before,
            _interval(task.before, task.before_standard_error),
            task.after,
            _interval(task.after, task.after_standard_error),
            task.chance,
        )
        for task in tasks
        if task.unit == "share"
    ]
    return plot_pairs(name, "Benchmark scores before and after training", pairs)


def plot_rates(rates: Sequence[RateChange]) -> str:
    """Draw how many chat answers each check holds of, before and after, with Wilson's 95 % intervals.

    An arrow behind a name points to the better side: up where more is better.
    """
    pairs = [
        ScorePair(
            f"{short(rate.name, 24)} {'↑' if rate.better == 'more' else '↓'}",
            rate.before.value,
            (rate.before.low, rate.before.high),
            rate.after.value,
            (rate.after.low, rate.after.high),
        )
        for rate in rates
    ]
    return plot_pairs("rates", "Checks of the chat answers before and after training", pairs)


def plot_pairs(name: str, title: str, pairs: Sequence[ScorePair]) -> str:
    """Draw a line a pair: name and values above, intervals and marks below, one scale for all of them."""
    if not pairs:
        return ""
    values = [value for pair in pairs for value in _values(pair)]
    scale = round_scale((100 * value for value in values), num_steps=4, floor=0.0)
    bottom = _ROW * len(pairs) + 6
    parts = []
    for number, tick in enumerate(scale.ticks):
        x = across(scale.part(tick))
        anchor = "start" if not number else "end" if number == len(scale.ticks) - 1 else "middle"
        parts.append(line(x, 4, x, bottom, "grid"))
        parts.append(text(x, bottom + 16, f"{tick:g} %", "soft", anchor=anchor))
    for row, pair in enumerate(pairs):
        top = _ROW * row
        parts.append(text("0", top + 16, pair.name, "name"))
        parts.append(text("100%", top + 16, _change(pair), "value", anchor="end"))
        y = top + 32
        if pair.chance is not None:
            x = across(scale.part(100 * pair.chance))
            parts.append(line(x, y - 9, x, y + 9, "chance-line"))
        start, end = (across(scale.part(100 * value)) for value in (pair.before, pair.after))
        parts.append(line(start, y, end, y, "join"))
        for interval, shift, css in ((pair.before_interval, -4.0, "before"), (pair.after_interval, 4.0, "after")):
            if interval:
                low, high = (across(scale.part(100 * value)) for value in interval)
                parts.append(line(low, y + shift, high, y + shift, f"interval {css}"))
        parts += [circle(start, y, 5, "dot before"), circle(end, y, 5, "dot after")]
    description = "; ".join(
        f"{pair.name}: {numbers.percent(pair.before)} before, {numbers.percent(pair.after)} after"
        + (f", chance {numbers.percent(pair.chance)}" if pair.chance is not None else "")
        for pair in pairs
    )
    return figure(name, title, description, parts, height=bottom + _AXIS)


def plot_mixture(shares: Sequence[tuple[str, int, int]]) -> str:
    """Draw each source's share of the examples and of the trained tokens; ``""`` where nothing was kept.

    Args:
        shares: (source, examples, trained tokens).
    """
    all_examples, all_tokens = sum(row[1] for row in shares), sum(row[2] for row in shares)
    if not all_examples or not all_tokens:
        return ""
    rows = [(name, examples / all_examples, tokens / all_tokens) for name, examples, tokens in shares]
    largest = max(part for row in rows for part in row[1:])
    parts = []
    for number, (name, *both) in enumerate(rows):
        top = 56.0 * number
        parts.append(text("0", top + 14, short(name, 36), "name"))
        for y, part, css, of in zip(
            (top + 20, top + 35), both, ("before", "after"), ("examples", "trained tokens"), strict=True
        ):
            width = f"{part / largest * _LONGEST_BAR:.2f}%"
            parts.append(bar(y, width, 11, f"bar {css}"))
            parts.append(text(width, y + 10, f"{numbers.percent(part)} of {of}", "soft", shift=7))
    description = "; ".join(
        f"{name}: {numbers.percent(examples)} of examples, {numbers.percent(tokens)} of trained tokens"
        for name, examples, tokens in rows
    )
    return figure(
        "mixture", "Share of each source in examples and in trained tokens", description, parts, height=56.0 * len(rows)
    )


def task_label(task: TaskChange) -> str:
    """Return the name of a benchmark with its metric and, where there are some, the answered questions before it."""
    return f"{short(task.task, 18)} ({task.metric}{f', {task.num_fewshot}-shot' if task.num_fewshot else ''})"


def _interval(value: float, standard_error: float | None) -> tuple[float, float] | None:
    if standard_error is None:
        return None
    return max(0.0, value - Z_95 * standard_error), min(1.0, value + Z_95 * standard_error)


def _values(pair: ScorePair) -> list[float]:
    found = [pair.before, pair.after, *(pair.before_interval or ()), *(pair.after_interval or ())]
    return found if pair.chance is None else [*found, pair.chance]


def _change(pair: ScorePair) -> str:
    return f"{100 * pair.before:.1f} → {numbers.percent(pair.after)}"
