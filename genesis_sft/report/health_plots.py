"""What was watched while a run trained, as small plots: whether it learns to end its turn, and how its rows fare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.report.curves import Curve, each_and_mean, plot_curves, points_of
from genesis_sft.report.drawing import Point
from genesis_sft.report.numbers import is_number

_HEIGHT = 120


@dataclass(frozen=True)
class Panel:
    """A small plot with its heading; ``rows`` are panels about the rows of control tokens, which are many."""

    heading: str
    svg: str
    about_rows: bool = False


_BY_STEP = (
    ("end_probability", "Probability of <|im_end|> where a turn ends", True),
    ("end_rank", "Its rank among all tokens there (1 is best)", True),
    ("elsewhere_probability", "Probability of <|im_end|> elsewhere", True),
    ("grad_norm", "Norm of the gradient", True),
    ("learning_rate", "Learning rate", False),
)
_OF_ROWS = (("norm_ratio", "norm over the mean norm", False), ("gradient_share", "share of the gradient", True))


def plot_health(metrics: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """Draw what stands in the metrics of a run beside the loss; what is not there is left out.

    Args:
        metrics: Rows with ``step``, and now and then ``health`` with ``rows``: matrix to control token to measures.
    """
    panels = []
    for name, heading, log in _BY_STEP:
        points = points_of(metrics, name)
        if len(points) >= 2:
            panels.append(_panel(f"health-{name.replace('_', '-')}", heading, points, log))
    return (*panels, *_row_panels(metrics))


def _row_panels(metrics: Sequence[Mapping[str, Any]]) -> list[Panel]:
    looked = [(row["step"], row["health"]["rows"]) for row in metrics if (row.get("health") or {}).get("rows")]
    panels = []
    names = {(matrix, token): None for _, rows in looked for matrix, tokens in rows.items() for token in tokens}
    for number, (matrix, token) in enumerate(names):
        for measure, words, log in _OF_ROWS:
            found = ((step, rows.get(matrix, {}).get(token, {}).get(measure)) for step, rows in looked)
            points = tuple((float(step), float(value)) for step, value in found if is_number(value))
            if len(points) >= 2:
                name = f"health-row-{number}-{measure.replace('_', '-')}"
                panels.append(_panel(name, f"{token}, {matrix}: {words}", points, log, about_rows=True))
    return panels


def _panel(name: str, heading: str, points: tuple[Point, ...], log: bool, *, about_rows: bool = False) -> Panel:
    lines = [Curve(points, "after", marks=True)] if about_rows else each_and_mean(points)
    svg = plot_curves(name, heading, lines, height=_HEIGHT, log=log)
    return Panel(f"{heading}{' (logarithmic)' if log else ''}", svg, about_rows)
