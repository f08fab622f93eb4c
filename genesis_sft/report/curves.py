"""The plots of a training run: losses, and what was watched beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeGuard

from genesis_sft.evals.check_record import LARGEST
from genesis_sft.report.drawing import (
    Point,
    Scale,
    across,
    circle,
    curve,
    figure,
    line,
    log_scale,
    round_scale,
    short,
    text,
    thin_out,
    tick_label,
)
from genesis_sft.report.numbers import is_number


@dataclass(frozen=True)
class Curve:
    """A line of a plot: values by step; ``marks`` sets a dot at each of them."""

    points: tuple[Point, ...]
    css: str
    marks: bool = False


def plot_loss(metrics: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> str:
    """Draw the training loss, each step and smoothed, and the held-out loss over all sources where it was measured.

    Args:
        metrics: Rows with ``step`` and ``loss`` (nats per trained token); those whose loss is no number are left out.
        events: Rows of the run's events; those of kind ``held_out`` have a ``loss``.

    Returns:
        SVG text; ``""`` for fewer than two steps.
    """
    each = points_of(metrics, "loss")
    if len(each) < 2:
        return ""
    held_out = points_of([event for event in events if event.get("kind") == "held_out"], "loss")
    lines = each_and_mean(each)
    lines += [Curve(held_out, "held-out", marks=True)] if held_out else []
    return plot_curves("loss", "Training loss by optimizer step, nats per trained token", lines, height=230)


def plot_source_losses(events: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Draw the held-out loss of each source during training.

    Returns:
        (source, SVG text) each; nothing where it was measured less than twice.
    """
    rows = [event for event in events if event.get("kind") == "held_out" and isinstance(event.get("sources"), Mapping)]
    names = sorted({name for row in rows for name in row["sources"]})
    plots = []
    for number, name in enumerate(names):
        points = tuple(
            (float(row["step"]), row["sources"][name]) for row in rows if _can_be_drawn(row["sources"].get(name))
        )
        if len(points) >= 2:
            lines = [Curve(points, "held-out", marks=True)]
            plots.append((name, plot_curves(f"held-out-{number}", f"Held-out loss on {name}", lines, height=120)))
    return tuple(plots)


def plot_curves(name: str, title: str, lines: Sequence[Curve], *, height: float, log: bool = False) -> str:
    """Draw curves over the steps of a run on one scale; labels of the scale stand on its left.

    Args:
        name: What the ids of the figure start with.
        title: What it shows, with its unit.
        lines: At least one, each with at least one point.
        height: In pixels, the numbers of the steps included.
        log: Whether the scale is of powers of ten; values of 0 are put at its low end.
    """
    values = [y for one in lines for _, y in one.points]
    above = [value for value in values if value > 0]
    scale = log_scale(above) if log and above else round_scale(values, num_steps=4 if height > 150 else 2)
    all_steps = [x for one in lines for x, _ in one.points]
    first, last = min(all_steps), max(all_steps)
    steps = Scale(first, last if last > first else first + 1, ())
    top, area = 8.0, height - 30.0
    left = 9.0 if height > 150 else 16.0
    parts = [*_grid(scale, left, top, area)]
    for one in lines:
        points = [(steps.part(x), scale.part(y)) for x, y in one.points]
        parts.append(curve(thin_out(points), f"curve {one.css}", left=left, top=top, height=area))
        if one.marks and len(points) <= 40:
            parts += [circle(across(x, left), round(top + area * (1 - y), 1), 3, f"mark {one.css}") for x, y in points]
    parts.append(text(f"{left:g}%", height - 4, f"step {first:,.0f}", "soft"))
    if last > first:
        parts.append(text("100%", height - 4, f"{last:,.0f}", "soft", anchor="end"))
    ends = "; ".join(_in_words(one) for one in lines if one.css != "raw")
    return figure(name, title, f"By step: {ends}.", parts, height=height)


def points_of(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[Point, ...]:
    """Return (step, value) of the rows whose value is there, finite and not absurd."""
    return tuple((float(row["step"]), float(row[name])) for row in rows if _can_be_drawn(row.get(name)))


def each_and_mean(points: tuple[Point, ...]) -> list[Curve]:
    """Return a curve of the values as they are, and one of their mean with their neighbours."""
    mean = smooth([y for _, y in points], smoothing_window(len(points)))
    return [Curve(points, "raw"), Curve(tuple((x, y) for (x, _), y in zip(points, mean, strict=True)), "after")]


def smoothing_window(steps: int) -> int:
    """Return how many steps are averaged: a twentieth of the run, odd, at least 3."""
    return max(3, steps // 20 // 2 * 2 + 1)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the centred mean over ``window`` values; at the ends over those that there are."""
    half, sums = window // 2, [0.0, *accumulate(values)]
    ends = ((max(0, index - half), min(len(values), index + half + 1)) for index in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


def _can_be_drawn(value: object) -> TypeGuard[float]:
    return is_number(value) and abs(value) <= LARGEST


def _grid(scale: Scale, left: float, top: float, area: float) -> Iterable[str]:
    for tick in scale.ticks:
        y = round(top + area * (1 - scale.part(tick)), 1)
        yield line(f"{left:g}%", y, "100%", y, "grid")
        yield text("0", y + 4, tick_label(tick, scale), "soft")


def _in_words(one: Curve) -> str:
    (first, start), (last, end) = one.points[0], one.points[-1]
    return f"{short(one.css)} {start:.4g} at {first:,.0f}, {end:.4g} at {last:,.0f}"
