"""The plot of `genesis-sft data stats`: how long the examples of each source are, and how much of each is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from genesis_sft.errors import InputError
from genesis_sft.mixture.stats import MixtureStats

SHARES, LENGTHS = "#8b929c", "#2f83c5"
SUFFIXES = (".svg", ".png")
_NUM_BINS = 60
_PNG_DOTS_PER_INCH = 160
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genesis-sft",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.6,
    "text.parse_math": False,
}


def plot_stats(stats: MixtureStats, path: Path) -> None:
    """Draw a row a source: lengths on the left with the median, trained share of each example on the right.

    Args:
        stats: What was measured; of at least one source.
        path: The picture, .svg or .png; on white, and equal for equal numbers.

    Raises:
        InputError: The file's name ends otherwise.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"expected a picture that ends in {' or '.join(SUFFIXES)}, found {path.name}")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.5, 1.0 + 0.85 * len(stats.sources)), layout="constrained", facecolor="white")
        grid: Any = figure.subplots(len(stats.sources), 2, sharex="col", squeeze=False, width_ratios=(3, 2))
        for (left, right), (name, of_source) in zip(grid, stats.sources.items(), strict=True):
            _fill(left, stats.lengths[name], stats.max_length, LENGTHS)
            left.axvline(of_source.median, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
            left.set_title(f"{name}: {of_source.examples:,} examples, median {of_source.median:,.0f}", **_TITLE)
            _fill(right, stats.trained_shares[name] * 100, 100, SHARES)
            right.set_title(f"{of_source.trained_share * 100:.1f} % of the tokens trained", **_TITLE)
        grid[-1][0].set_xlabel(f"tokens of an example, {stats.max_length:,} at most (dotted: median)")
        grid[-1][1].set_xlabel("trained share of an example, %")
        if path.suffix == ".svg":
            FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})
        else:
            figure.set_dpi(_PNG_DOTS_PER_INCH)
            FigureCanvasAgg(figure).print_png(str(path))


_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 9}


def _fill(axes: Axes, values: Any, upper: float, colour: str) -> None:
    counts, edges = np.histogram(values, bins=_NUM_BINS, range=(0, upper))
    axes.stairs(counts, edges, fill=True, color=colour)
    axes.set_xlim(0, upper)
    axes.set_yticks([])
