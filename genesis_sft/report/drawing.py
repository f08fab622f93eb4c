"""What the plots are drawn with: SVG that fits any width without its letters shrinking.

Positions across are percentages of the width, positions down are pixels; a curve lies in an inner ``<svg>`` that is
stretched, its lines are not. Colours are classes, which the page defines for light, dark and print. Everything that is
inserted has passed through ``for_html``. Equal input gives equal text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genesis_sft.report.foreign_text import for_html

EDGE = 2.0
"""Per cent of the width kept free at either side, for a circle at the end of a scale."""

_LARGEST_EXPONENT = 300

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Where a value lies between two ends; ``log`` for powers of ten that lie evenly apart.

    Attributes:
        ticks: Round values between the ends, both of them mostly among these.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def part(self, value: float) -> float:
        """Return 0 at the low end, 1 at the high one; what lies beyond an end is put there."""
        low, high, at = (math.log10(one) if self.log else one for one in (self.low, self.high, self._within(value)))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def _within(self, value: float) -> float:
        return min(self.high, max(self.low, value))


def round_scale(values: Iterable[float], *, num_steps: int = 4, floor: float = -math.inf) -> Scale:
    """Return a scale with round ends around the values, ``num_steps`` steps or a few more or less.

    Args:
        values: Finite numbers, at least one.
        num_steps: Steps between ticks that are aimed at.
        floor: The low end is not below this; a share has no ticks below 0.
    """
    found = list(values)
    low, high = min(found), max(found)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # equal, or as good as equal
        reach = max(abs(high) * 0.1, 0.1)
        low, high = low - reach, high + reach
    rough = high / num_steps - low / num_steps
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    if floor > -math.inf:
        first = max(first, math.ceil(floor / step - 1e-9))
    ticks = tuple(number * step for number in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def log_scale(values: Iterable[float]) -> Scale:
    """Return a scale of powers of ten around the values, which are above 0; at most six ticks."""
    found = list(values)
    low, high = (max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, math.log10(one))) for one in (min(found), max(found)))
    first, last = math.floor(low + 1e-9), math.ceil(high - 1e-9)
    last = max(last, first + 1)
    every = math.ceil((last - first) / 5)
    last = first + math.ceil((last - first) / every) * every
    ticks = tuple(10.0**exponent for exponent in range(first, last + 1, every))
    return Scale(ticks[0], ticks[-1], ticks, log=True)


def across(part: float, left: float = EDGE) -> str:
    """Return a position across, of 0 to 1, as a percentage inside the edges; ``left`` where labels stand there."""
    return f"{left + part * (100 - EDGE - left):.2f}%"


def line(x1: str, y1: float, x2: str, y2: float, css: str) -> str:
    """Return a straight line; x as percentages, y in pixels."""
    return f'<line x1="{x1}" y1="{y1:g}" x2="{x2}" y2="{y2:g}" class="{css}"/>'


def circle(x: str, y: float, radius: float, css: str) -> str:
    """Return a circle."""
    return f'<circle cx="{x}" cy="{y:g}" r="{radius:g}" class="{css}"/>'


def bar(y: float, width: str, height: float, css: str) -> str:
    """Return a bar from the left edge on."""
    return f'<rect x="0" y="{y:g}" width="{width}" height="{height:g}" class="{css}"/>'


def text(x: str, y: float, words: str, css: str = "", *, anchor: str = "start", shift: float = 0) -> str:
    """Return a line of text; ``shift`` are pixels to the right."""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    moved = f' dx="{shift:g}"' if shift else ""
    look = f' class="{css}"' if css else ""
    return f'<text x="{x}" y="{y:g}"{moved}{where}{look}>{for_html(words)}</text>'


def curve(points: Sequence[Point], css: str, *, left: float, top: float, height: float) -> str:
    """Return a line through points whose x and y are 0 to 1 (y upwards), over the whole width.

    Args:
        points: At least one; a single one is drawn as a short dash.
        css: Classes of the line.
        left: Per cent of the width that are kept free for labels.
        top: Where the drawn area begins, in pixels.
        height: Its height.
    """
    shown = points if len(points) > 1 else [(points[0][0] - 0.004, points[0][1]), (points[0][0] + 0.004, points[0][1])]
    inside = " ".join(f"{10 * left + x * (1000 - 10 * (EDGE + left)):.1f},{1000 - y * 1000:.1f}" for x, y in shown)
    return (
        f'<svg x="0" y="{top:g}" width="100%" height="{height:g}" viewBox="0 0 1000 1000" preserveAspectRatio="none">'
        f'<polyline points="{inside}" class="{css}"/></svg>'
    )


def figure(name: str, title: str, description: str, parts: Iterable[str], *, height: float) -> str:
    """Return an ``<svg>`` with a title and a description for those who do not see it.

    Args:
        name: What its ids start with; no other figure of the page has it.
        title: What it shows.
        description: The numbers that it shows, in words.
        parts: The elements.
        height: In pixels; the width is that of the place where it stands.
    """
    inside = "\n".join(parts)
    return (
        f'<svg class="figure" role="img" width="100%" height="{height:g}" '
        f'aria-labelledby="{name}-title {name}-desc">\n'
        f'<title id="{name}-title">{for_html(title)}</title>\n'
        f'<desc id="{name}-desc">{for_html(description)}</desc>\n{inside}\n</svg>'
    )


def short(name: str, longest: int = 30) -> str:
    """Return a name on one line; one that is too long for its place keeps its beginning and its end."""
    shown, tail = " ".join(name.split()), longest // 3
    return shown if len(shown) <= longest else f"{shown[: longest - 1 - tail]}…{shown[-tail:]}"


def tick_label(value: float, scale: Scale) -> str:
    """Return a tick's value with as many digits as its neighbours need: ``2.50``, ``0.001``, ``1e-07``."""
    if scale.log:
        return f"{value:g}"
    step = (scale.high - scale.low) / max(1, len(scale.ticks) - 1)
    if not 1e-4 <= step < 1e6:
        return f"{round(value / step) * step:.3g}" if value else "0"
    digits = next(count for count in range(8) if abs(round(step, count) - step) < 1e-6 * step)
    return f"{value:.{digits}f}".replace("-", "−") if value else "0"


def thin_out(points: Sequence[Point], most: int = 400) -> list[Point]:
    """Return at most about ``most`` points, the lowest and the highest of each stretch: spikes are still seen."""
    if len(points) <= most:
        return list(points)
    width = math.ceil(len(points) / (most // 2))
    kept: list[Point] = []
    for start in range(0, len(points), width):
        part = points[start : start + width]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept
