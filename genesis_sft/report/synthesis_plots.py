"""The plot of a data card: what written conversations are about, how they begin, their lengths, what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from genesis_sft.report.drawing import short
from genesis_sft.synthesis.output.card import WRITTEN_BY
from genesis_sft.synthesis.output.card_parts import FEWEST

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genesis-sft",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "text.parse_math": False,
}
_AREA_COLOURS = ("#2f83c5", "#e0a030", "#4c9a6a", "#a8577e", "#8b929c", "#6b5bb0")
_QUESTIONS, _ANSWERS, _LEFT_OUT = "#8b929c", "#2f83c5", "#c0563f"
_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 10}
_MOST_ROWS = 16
_LONGEST_LABEL = 30


def plot_card(card: Mapping[str, Any], path: Path) -> None:
    """Draw a data card: main principles by area, openings of the answers, lengths by area, and what was left out.

    Args:
        card: As ``card.json`` holds it.
        path: The picture, .svg; on white, and equal for equal numbers.
    """
    counts = card["conversations"]
    with matplotlib.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)  # inches; the title stands off the edges
        figure = Figure(figsize=(11, 8), layout=layout, facecolor="white")
        grid: Any = figure.subplots(2, 2, height_ratios=(5, 4))
        figure.suptitle(
            f"{counts['kept']:,} of {counts['finished']:,} finished conversations kept; {counts['planned']:,} planned",
            x=0.015,
            ha="left",
            fontsize=11,
        )
        _draw_principles(grid[0][0], card["main_principles"])
        _draw_openings(grid[0][1], card["diversity"]["answers"], counts["kept"])
        _draw_lengths(grid[1][0], card["diversity"]["areas"])
        _draw_left_out(grid[1][1], counts)
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None, "Creator": WRITTEN_BY})


def _draw_principles(axes: Axes, by_area: Mapping[str, Mapping[str, int]]) -> None:
    """Draw a bar a principle, the commonest on top, in the colours of the areas."""
    totals: dict[str, int] = {}
    for principles in by_area.values():
        for name, number in principles.items():
            totals[name] = totals.get(name, 0) + number
    rows = sorted(totals, key=lambda name: (-totals[name], name))[:_MOST_ROWS]
    begins = [0] * len(rows)
    for place, (area, principles) in enumerate(by_area.items()):
        widths = [principles.get(name, 0) for name in rows]
        colour = _AREA_COLOURS[place % len(_AREA_COLOURS)]
        axes.barh(range(len(rows)), widths, left=begins, color=colour, label=_words(area), height=0.7)
        begins = [begin + width for begin, width in zip(begins, widths, strict=True)]
    _label_rows(axes, [_words(name) for name in rows])
    axes.set_title(f"Main principle, by area{_more(totals, rows)}", **_TITLE)
    axes.set_xlabel("conversations kept")
    axes.margins(x=0.02)
    if by_area:
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def _draw_openings(axes: Axes, answers: Mapping[str, Any], num_conversations: int) -> None:
    openings = answers["openings"]
    shares = [100 * number / num_conversations for _, number in openings]
    axes.barh(range(len(openings)), shares, color=_ANSWERS, height=0.7)
    _label_rows(axes, [f"{opening} …" for opening, _ in openings])
    varied = f"as varied as {answers['effective_openings']:,.0f} equally common ones"
    axes.set_title("Commonest openings of answers", **_TITLE)
    axes.set_xlabel("share of the conversations, %" + (f"\n{varied}" if num_conversations >= FEWEST else ""))


def _draw_lengths(axes: Axes, areas: Mapping[str, Any]) -> None:
    for row, of_area in enumerate(areas.values()):
        for name, shift, colour in (("questions", -0.14, _QUESTIONS), ("answers", 0.14, _ANSWERS)):
            found = of_area[name]
            label = name if row == 0 else None
            axes.plot((found["p5"], found["p95"]), (row + shift,) * 2, color=colour, linewidth=3, label=label)
            axes.plot((found["median"],), (row + shift,), "o", color=colour, markeredgecolor="white", markersize=7)
    _label_rows(axes, [f"{_words(name)} ({of_area['conversations']:,})" for name, of_area in areas.items()])
    axes.set_xlim(left=0)
    axes.set_title("Words of a message: median, 5th to 95th percentile", **_TITLE)
    axes.set_xlabel("words")
    if areas:
        axes.legend(frameon=False, fontsize=8, loc="best")


def _draw_left_out(axes: Axes, counts: Mapping[str, Any]) -> None:
    reasons = {**counts["rejected"], **{f"{reason} (not finished)": n for reason, n in counts["ended"].items()}}
    rows = sorted(reasons, key=lambda reason: (-reasons[reason], reason))[:_MOST_ROWS]
    bars = axes.barh(range(len(rows)), [reasons[reason] for reason in rows], color=_LEFT_OUT, height=0.7)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    _label_rows(axes, rows)
    axes.margins(x=0.1)
    number = sum(reasons.values())
    axes.set_title(f"Left out: {number:,}{_more(reasons, rows)}" if number else "Nothing was left out", **_TITLE)
    axes.set_xlabel("conversations")


def _label_rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), [short(label, _LONGEST_LABEL) for label in labels])
    axes.set_ylim(len(labels) - 0.4 if labels else 1, -0.6)
    axes.tick_params(axis="y", length=0)


def _words(identifier: str) -> str:
    return identifier.replace("_", " ")


def _more(found: Mapping[str, int], rows: list[str]) -> str:
    return f" (the {len(rows)} largest of {len(found)})" if len(found) > len(rows) else ""
