"""The plots of the report, as SVG text to be set into the page.

Text and axes are drawn in ``currentColor`` and the background is transparent, so a plot reads on white and on dark.
Text stays text (searchable, in the page's font). Equal input gives equal bytes: no date, no random ids.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from genesis_sft.console import visible
from genesis_sft.report.compare import TaskChange
from genesis_sft.report.numbers import is_number
from genesis_sft.report.statistics import Z_95

INK = "#010203"  # stands for currentColor until the SVG is written; no other part may have it
BEFORE = "#8b929c"
AFTER = "#2f83c5"
EXAMPLES = "#8b929c"
WIDTH_INCHES = 5.8
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genesis-sft",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a name with a $ in it is a name
}


def plot_tasks(tasks: Sequence[TaskChange]) -> str:
    """Draw before -> after for each benchmark that is a share, with 95 % intervals and a tick at chance.

    Returns:
        SVG text; ``""`` where no benchmark is a share of right answers.
    """
    shown = [task for task in tasks if task.unit == "share"]
    if not shown:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new_figure(height=0.8 + 0.46 * len(shown))
        for row, task in enumerate(shown):
            _draw_task(axes, row, task, labelled=row == 0)
        axes.set_yticks(range(len(shown)), [_short(f"{task.task} ({task.metric})") for task in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("right answers, % (lines: 95 % interval of each score)")
        axes.tick_params(axis="y", length=0)
        _legend_above(figure, axes)
        return _to_svg(figure, "tasks", "Benchmark scores before and after training, with error bars and chance")


def plot_loss(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Draw the training loss of each step, raw and smoothed; ``""`` for fewer than two steps.

    Args:
        metrics: Rows with ``step`` and ``loss`` (nats per trained token); those whose loss is no number are left out.
    """
    known = [row for row in metrics if is_number(row["loss"])]
    if len(known) < 2:
        return ""
    steps = [float(row["step"]) for row in known]
    losses = [float(row["loss"]) for row in known]
    window = smoothing_window(len(losses))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new_figure(height=2.6)
        axes.plot(steps, losses, color=BEFORE, linewidth=0.8, alpha=0.6, label="each step")
        axes.plot(steps, smooth(losses, window), color=AFTER, linewidth=2, label=f"mean of {window} steps")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("nats per trained token")
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        _legend_above(figure, axes)
        return _to_svg(figure, "loss", "Training loss by optimizer step")


def plot_mixture(shares: Sequence[tuple[str, int, int]]) -> str:
    """Draw each source's share of the examples and of the trained tokens; ``""`` where nothing was kept.

    Args:
        shares: (source, examples, trained tokens).
    """
    all_examples, all_tokens = sum(row[1] for row in shares), sum(row[2] for row in shares)
    if not all_examples or not all_tokens:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new_figure(height=0.8 + 0.5 * len(shares))
        rows = range(len(shares))
        examples = [100 * row[1] / all_examples for row in shares]
        tokens = [100 * row[2] / all_tokens for row in shares]
        upper = axes.barh([row - 0.18 for row in rows], examples, height=0.3, color=EXAMPLES, label="examples")
        lower = axes.barh([row + 0.18 for row in rows], tokens, height=0.3, color=AFTER, label="trained tokens")
        for bars in (upper, lower):
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axes.set_yticks(rows, [_short(row[0]) for row in shares])
        axes.set_ylim(len(shares) - 0.4, -0.6)
        axes.set_xlim(0, 1.1 * max(*examples, *tokens))
        axes.set_xlabel("share of the mixture, %")
        axes.tick_params(axis="y", length=0)
        _legend_above(figure, axes)
        return _to_svg(figure, "mixture", "Share of each source in examples and in trained tokens")


def smoothing_window(steps: int) -> int:
    """Return how many steps are averaged: a twentieth of the run, odd, at least 3."""
    return max(3, steps // 20 // 2 * 2 + 1)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the centred mean over ``window`` values; at the ends over those that there are."""
    half = window // 2
    parts = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def _draw_task(axes: Axes, row: int, task: TaskChange, *, labelled: bool) -> None:
    before, after = 100 * task.before, 100 * task.after
    axes.plot([before, after], [row, row], color=INK, alpha=0.35, linewidth=1.5, zorder=1)
    sides = (
        (before, task.before_standard_error, BEFORE, -0.13, "before"),
        (after, task.after_standard_error, AFTER, 0.13, "after"),
    )
    for value, error, colour, shift, label in sides:
        if error is not None:
            reach = 100 * Z_95 * error
            axes.plot([value - reach, value + reach], [row + shift] * 2, color=colour, linewidth=1.4, zorder=2)
        axes.plot([value], [row], "o", color=colour, markersize=7, zorder=3, label=label if labelled else None)
    if task.chance is not None:
        chance = [100 * task.chance] * 2
        axes.plot(chance, [row - 0.3, row + 0.3], color=INK, linewidth=1.2, linestyle=(0, (1.5, 1.5)), zorder=2)


def _new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _legend_above(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=9)


def _short(name: str, longest: int = 30) -> str:
    shown = " ".join(visible(name).split())
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _to_svg(figure: Figure, name: str, label: str) -> str:
    """Return the figure as an ``<svg>`` element whose ids start with ``name``, so that two fit into one page."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)  # a style would hold for the whole page
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
