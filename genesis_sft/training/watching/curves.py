"""The curves of a training run, drawn with characters: at any width, in colour or without, in Unicode or ASCII."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.console import visible
from genesis_sft.training.watching.metrics import smoothed
from genesis_sft.training.watching.watch import WatchedRun

Points = list[tuple[int, float]]
"""(step, value), by step."""

_PANEL_COLUMNS = 38
_PANEL_LINES = 12
_FEWEST_LINES = 7
_COLOURS = (39, 245, 208, 34, 170, 220, 203, 51)  # of the 256; the first for what matters most
_MARKERS = ("braille", "x", "o", "+", "#", "%", "@", "&")  # tell lines apart where there is no colour
_ASCII = str.maketrans({"─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "┤": "+", "┬": "+", "┼": "+"})


@dataclass(frozen=True)
class Line:
    """One line of a curve: its name in the legend, empty where there is only one, and its points."""

    name: str
    points: Points


@dataclass(frozen=True)
class Curve:
    """What one panel shows; the first line is drawn on top."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Paper:
    """What is drawn on.

    Attributes:
        width: Columns; no line is longer.
        height: Lines; panels that do not fit are left out. As many as it takes when None.
        colour: Whether colours are shown; else lines differ by their marker.
        unicode: Whether more than ASCII can be shown.
    """

    width: int
    height: int | None = None
    colour: bool = False
    unicode: bool = True


def curves_of(run: WatchedRun) -> list[Curve]:
    """Return what there is to draw of a run; a curve without a point is left out."""
    curves = [
        Curve("loss", (_smooth(losses := _points(run.metrics, "loss")), Line("each step", losses))),
        Curve("held-out loss", tuple(_held_out(run.of_kind("held_out")))),
        Curve("learning rate", (Line("", _points(run.metrics, "learning_rate")),)),
        Curve("gradient norm", (Line("", _points(run.metrics, "grad_norm")),)),
        Curve("tokens/s", (Line("", _rates(run.metrics)),)),
        Curve("probability of end of turn", tuple(_end_of_turn(run.metrics))),
    ]
    with_points = [Curve(c.title, tuple(line for line in c.lines if line.points)) for c in curves]
    return [curve for curve in with_points if curve.lines]


def draw(curves: Sequence[Curve], paper: Paper) -> list[str]:
    """Return lines of text that show the curves, side by side where there is room."""
    columns = max(1, min(3, paper.width // _PANEL_COLUMNS, len(curves)))
    width = (paper.width - 2 * (columns - 1)) // columns
    rows = [curves[start : start + columns] for start in range(0, len(curves), columns)]
    height = _PANEL_LINES
    if paper.height is not None and rows:
        rows = rows[: max(1, paper.height // _FEWEST_LINES)]
        height = min(_PANEL_LINES, max(_FEWEST_LINES, paper.height // len(rows)))
    lines = []
    for row in rows:
        panels = [_panel(curve, width, height, paper) for curve in row]
        lines += ["  ".join(parts) for parts in zip(*panels, strict=True)]
    return lines


def thin(points: Points, num_parts: int) -> Points:
    """Return fewer points that look the same: of each of ``num_parts`` stretches, the lowest and the highest."""
    if len(points) <= 2 * num_parts:
        return points
    bounds = [len(points) * part // num_parts for part in range(num_parts + 1)]
    kept: Points = []
    for start, stop in itertools.pairwise(bounds):
        part = range(start, stop)
        places = {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
        kept += [points[place] for place in sorted(places)]
    return kept


def _points(rows: Iterable[Mapping[str, Any]], name: str) -> Points:
    return [(row["step"], row[name]) for row in rows if _is_number(row.get(name))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _smooth(losses: Points) -> Line:
    points, mean = [], None
    for step, loss in losses:
        mean = smoothed(mean, loss)
        points.append((step, float(mean or 0.0)))
    return Line("smoothed", points)


def _held_out(events: Sequence[Mapping[str, Any]]) -> Iterable[Line]:
    """Yield the loss of all held-out conversations, and where there are several sources, of each."""
    yield Line("all", _points(events, "loss"))
    measured = [(row["step"], row["sources"]) for row in events if isinstance(row.get("sources"), Mapping)]
    names = dict.fromkeys(name for _, sources in measured for name in sources if name)
    for name in names if len(names) > 1 else ():
        yield Line(
            visible(name), [(step, sources[name]) for step, sources in measured if _is_number(sources.get(name))]
        )


def _rates(rows: Sequence[Mapping[str, Any]]) -> Points:
    return [
        (row["step"], row["tokens"] / row["elapsed_seconds"])
        for row in rows
        if row.get("elapsed_seconds") and _is_number(row.get("tokens"))
    ]


def _end_of_turn(rows: Sequence[Mapping[str, Any]]) -> Iterable[Line]:
    yield Line("at ends of turns", _points(rows, "end_probability"))
    yield Line("elsewhere", _points(rows, "elsewhere_probability"))


def _panel(curve: Curve, width: int, height: int, paper: Paper) -> list[str]:
    """Return ``height`` lines that are ``width`` columns wide: title and legend, and the plot."""
    head = _head(curve, width, paper)[: height - _FEWEST_LINES + 1]
    plot = _plot(curve, width, height - len(head), paper).translate({} if paper.unicode else _ASCII).split("\n")
    return [*head, *(plot + [" " * width] * height)[: height - len(head)]]


def _head(curve: Curve, width: int, paper: Paper) -> list[str]:
    """Return the title, and the names and last values of the lines, on as many lines as they need."""
    from rich.cells import cell_len, set_cell_size

    lines, room = [""], width
    for number, text in enumerate([curve.title, *(_legend(curve, n, paper) for n in range(len(curve.lines)))]):
        if number and cell_len(text) > room:
            lines, room = [*lines[:-1], lines[-1] + " " * room, ""], width
        shown = set_cell_size(text, min(room, cell_len(text)))
        gap = " " * min(2, room - cell_len(shown))
        room -= cell_len(shown) + len(gap)
        colour = f"\x1b[38;5;{_COLOURS[(number - 1) % 8]}m" if number and paper.colour else ""
        lines[-1] += (f"{colour}{shown}\x1b[0m" if colour else shown) + gap
    return [*lines[:-1], lines[-1] + " " * room]


def _legend(curve: Curve, number: int, paper: Paper) -> str:
    line = curve.lines[number]
    mark = "" if paper.colour or len(curve.lines) == 1 else f"{_marker(number, paper)} ".replace("braille", "⣀")
    name = line.name if paper.unicode else line.name.encode("ascii", "replace").decode()
    return f"{mark}{name} {line.points[-1][1]:.3g}".strip()


def _marker(number: int, paper: Paper) -> str:
    marker = "braille" if paper.colour else _MARKERS[number % len(_MARKERS)]
    return "*" if marker == "braille" and not paper.unicode else marker


def _plot(curve: Curve, width: int, height: int, paper: Paper) -> str:
    import plotext

    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.plot_size(width, height)
    plotext.theme("clear")
    for number, line in reversed(list(enumerate(curve.lines))):
        steps, values = zip(*thin(line.points, width), strict=True)
        marker = _marker(number, paper)
        draw_line: Callable[..., None] = plotext.plot if paper.colour or number == 0 else plotext.scatter
        draw_line(steps, values, marker=marker, color=_COLOURS[number % 8] if paper.colour else "default")
    _set_scales(plotext, [point for line in curve.lines for point in line.points], height)
    text = str(plotext.build())
    return text if paper.colour else str(plotext.uncolorize(text))


def _set_scales(plotext: Any, points: Points, height: int) -> None:
    """Let the plot end where the points do, with a few plain numbers along its sides."""
    first, last = min(points)[0], max(points)[0]
    low, high = min(value for _, value in points), max(value for _, value in points)
    margin = 0.0 if high > low else abs(low) * 0.05 or 1.0
    low, high, num_ticks = low - margin, high + margin, 4 if height >= 9 else 2
    ticks = [low + (high - low) * number / (num_ticks - 1) for number in range(num_ticks)]
    plotext.ylim(low, high)
    plotext.yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    plotext.xlim(first, last if last > first else first + 1)
    plotext.xticks([first, last], [str(first), str(last)])
