"""Plots: what they show can be read without seeing them, they fit any width, and nothing in them is markup."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from genesis_sft.evals.error_bars import wilson
from genesis_sft.report.changes import RateChange
from genesis_sft.report.curves import plot_loss, plot_source_losses, smooth, smoothing_window
from genesis_sft.report.health_plots import plot_health
from genesis_sft.report.plots import plot_mixture, plot_rates, plot_tasks
from tests.report.records import task_change

METRICS: list[dict[str, Any]] = [
    {"step": step, "loss": 3 - step / 10, "end_probability": 10.0**-step, "grad_norm": 2.0} for step in range(1, 11)
]
EVENTS: list[dict[str, Any]] = [
    {"step": step, "kind": "held_out", "loss": 3.0, "sources": {"mine": 3.1, "his": 2.9}} for step in (5, 10)
]
SHARES = [("mine", 10, 500), ("his", 30, 500)]
RATE = RateChange("repeats itself", "less", wilson(20, 40), wilson(10, 40), to_yes=0, to_no=10, p_value=0.002)


def all_plots() -> dict[str, str]:
    found = {
        "tasks": plot_tasks(
            "raw", [task_change(), task_change(task="lambada", chance=None, before_standard_error=None)]
        ),
        "rates": plot_rates([RATE]),
        "loss": plot_loss(METRICS, EVENTS),
        "mixture": plot_mixture(SHARES),
    }
    found |= {f"source {name}": svg for name, svg in plot_source_losses(EVENTS)}
    return found | {panel.heading: panel.svg for panel in plot_health(METRICS)}


NAMES = sorted(all_plots())


def test_equal_input_gives_equal_bytes() -> None:
    assert all_plots() == all_plots()


@pytest.mark.parametrize("name", NAMES)
def test_a_plot_fits_any_width_and_takes_its_colours_from_the_page(name: str) -> None:
    root = ElementTree.fromstring(all_plots()[name])
    assert (root.tag, root.get("width"), root.get("viewBox")) == ("svg", "100%", None)
    for element in root.iter():
        assert not {"style", "fill", "stroke"} & element.attrib.keys()
        for side in ("x", "x1", "x2", "cx", "width"):
            value = element.get(side, "0")
            assert value == "0" or value.endswith("%"), (element.tag, side, value)
            assert 0 <= float(value.rstrip("%")) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_a_plot_says_what_it_shows_to_those_who_do_not_see_it(name: str) -> None:
    root = ElementTree.fromstring(all_plots()[name])
    ids = (root.get("aria-labelledby") or "").split()
    said = {element.get("id"): element.text for element in root if element.tag in ("title", "desc")}
    assert root.get("role") == "img"
    assert len(ids) == 2
    assert all(said[one] for one in ids)
    assert re.search(r"\d", said[ids[1]] or "")


def test_no_id_stands_twice_in_a_page_with_all_plots() -> None:
    page = "".join([*all_plots().values(), plot_tasks("chat", [task_change(surface="chat")])])
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10


def positions(svg: str, css: str) -> list[float]:
    """Return where circles or lines of a class stand, in per cent of the width."""
    found = re.findall(rf'<(?:circle cx|line x1)="([0-9.]+)%"[^>]*class="{css}"', svg)
    return [float(value) for value in found]


def test_scores_stand_where_the_scale_says() -> None:
    svg = plot_tasks("raw", [task_change(before=0.4, after=0.6, chance=0.25, before_standard_error=0.05)])
    ticks = {float(words): float(x) for x, words in re.findall(r'<text x="([0-9.]+)%"[^>]*>([0-9.]+) %</text>', svg)}
    low, high = min(ticks), max(ticks)
    per_point = (ticks[high] - ticks[low]) / (high - low)
    (before,), (after,), (chance,) = (positions(svg, css) for css in ("dot before", "dot after", "chance-line"))
    assert before == pytest.approx(ticks[low] + (40 - low) * per_point, abs=0.02)
    assert after - before == pytest.approx(20 * per_point, abs=0.02)
    assert before - chance == pytest.approx(15 * per_point, abs=0.02)
    (interval,) = positions(svg, "interval before")
    assert before - interval == pytest.approx(5 * 1.96 * per_point, abs=0.02)


def test_an_interval_ends_where_shares_end() -> None:
    svg = plot_tasks("raw", [task_change(before=0.01, before_standard_error=0.1, after=0.99, after_standard_error=0.1)])
    assert min(positions(svg, "interval before")) == pytest.approx(2)
    assert max(float(x) for x in re.findall(r'x2="([0-9.]+)%"', svg)) == pytest.approx(98)


def test_bars_are_as_long_as_the_shares_are_large() -> None:
    widths = [float(width) for width in re.findall(r'<rect x="0"[^>]*width="([0-9.]+)%"', plot_mixture(SHARES))]
    examples_of_mine, tokens_of_mine, examples_of_his, tokens_of_his = widths
    assert examples_of_his == pytest.approx(3 * examples_of_mine, rel=1e-3)
    assert tokens_of_mine == tokens_of_his == pytest.approx(2 * examples_of_mine, rel=1e-3)


def test_names_are_text_and_never_markup() -> None:
    name = "<b>&\x1b</b>"
    for svg in (
        plot_mixture([(name, 1, 1)]),
        plot_tasks("raw", [task_change(task=name)]),
        dict(plot_source_losses([{**event, "sources": {name: 1.0}} for event in EVENTS]))[name],
    ):
        ElementTree.fromstring(svg)
        assert "<b>" not in svg
        assert "&lt;b&gt;&amp;␛" in svg


def test_nothing_to_draw_gives_no_plot() -> None:
    assert plot_tasks("raw", [task_change(unit="nats per word")]) == ""
    assert plot_rates([]) == ""
    assert plot_loss(METRICS[:1], EVENTS) == ""
    assert plot_mixture([("mine", 0, 0)]) == ""
    assert plot_source_losses(EVENTS[:1]) == ()
    assert plot_health([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0, "health": None}]) == ()


def test_smoothing_takes_what_there_is_at_the_ends() -> None:
    assert smooth([1.0, 2.0, 6.0, 3.0], 3) == [1.5, 3.0, 11 / 3, 4.5]
    assert [smoothing_window(steps) for steps in (2, 60, 100, 1000)] == [3, 3, 5, 51]


def test_the_loss_is_drawn_as_it_is_and_smoothed_with_the_held_out_loss_where_it_was_measured() -> None:
    svg = plot_loss(METRICS, EVENTS)
    assert re.findall(r'class="curve ([a-z-]+)"', svg) == ["raw", "after", "held-out"]
    assert re.findall(r'class="curve ([a-z-]+)"', plot_loss(METRICS, [])) == ["raw", "after"]
    early, late = positions(svg, "mark held-out")
    # steps 5 and 10 of 1 to 10: four ninths of the way, and the end
    assert (early - 9) / (late - 9) == pytest.approx(4 / 9, abs=0.01)
    assert late == 98


@pytest.mark.parametrize("value", [1e308, -1e300, 1e-320, 0.0, True, "2.0", None, math.inf])
def test_absurd_values_are_no_reason_to_fail(value: Any) -> None:
    rows = [{"step": step, "loss": 2.0, "grad_norm": value, "end_probability": value} for step in range(1, 5)]
    rows += [{"step": 5, "loss": value, "grad_norm": 1.0, "end_probability": 0.5}]
    for svg in (plot_loss(rows, EVENTS), *(panel.svg for panel in plot_health(rows))):
        ElementTree.fromstring(svg)
        assert not re.search(r'="(nan|-?inf)', svg)


def test_steps_without_a_loss_are_left_out() -> None:
    gaps = [{"step": 2.5, "loss": None}, {"step": 3.5, "loss": math.nan}]
    assert plot_loss([*METRICS[:3], *gaps, *METRICS[3:]], EVENTS) == plot_loss(METRICS, EVENTS)
    assert plot_loss(gaps, EVENTS) == ""


def test_the_rows_of_control_tokens_have_plots_of_their_own() -> None:
    rows = [
        {"step": step, "health": {"rows": {"embedding": {"<|im_end|>": {"norm_ratio": 1.0, "gradient_share": share}}}}}
        for step, share in ((1, 0.0), (10, None), (20, 0.5))
    ]
    assert [(panel.heading, panel.about_rows) for panel in plot_health(rows)] == [
        ("<|im_end|>, embedding: norm over the mean norm", True),
        ("<|im_end|>, embedding: share of the gradient (logarithmic)", True),
    ]
