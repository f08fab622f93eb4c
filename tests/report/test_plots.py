from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from genesis_sft.report.plots import plot_loss, plot_mixture, plot_tasks, smooth, smoothing_window
from tests.report.records import task_change

METRICS = [{"step": step, "loss": 3 - step / 10} for step in range(1, 11)]
SHARES = [("mine", 10, 500), ("his", 30, 500)]


def all_plots() -> dict[str, str]:
    return {
        "tasks": plot_tasks([task_change(), task_change(task="lambada", chance=None, before_standard_error=None)]),
        "loss": plot_loss(METRICS),
        "mixture": plot_mixture(SHARES),
    }


def test_equal_input_gives_equal_bytes() -> None:
    assert all_plots() == all_plots()


@pytest.mark.parametrize("name", ["tasks", "loss", "mixture"])
def test_a_plot_is_an_svg_that_fits_any_page(name: str) -> None:
    svg = all_plots()[name]
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("viewBox")
    assert "width" not in root.attrib
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "#000000" not in svg
    assert "<style" not in svg
    assert not re.search(r"\d{4}-\d\d-\d\dT", svg)


def test_no_id_stands_twice_in_a_page_with_all_plots() -> None:
    page = "".join(all_plots().values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {used.strip("#") for used in re.findall(r'(?:href="|url\()(#[^")]+)', page)} <= set(ids)


def test_names_are_text_and_never_markup_or_mathematics() -> None:
    svg = plot_mixture([("<b>$x^2$</b>", 1, 1)])
    assert "<b>" not in svg
    assert "&lt;b&gt;$x^2$&lt;/b&gt;" in svg


def test_nothing_to_draw_gives_no_plot() -> None:
    assert plot_tasks([task_change(unit="nats per word")]) == ""
    assert plot_loss(METRICS[:1]) == ""
    assert plot_mixture([("mine", 0, 0)]) == ""


def test_smoothing_takes_what_there_is_at_the_ends() -> None:
    assert smooth([1.0, 2.0, 6.0, 3.0], 3) == [1.5, 3.0, 11 / 3, 4.5]
    assert [smoothing_window(steps) for steps in (2, 60, 100, 1000)] == [3, 3, 5, 51]


def test_steps_without_a_loss_are_left_out() -> None:
    gaps = [{"step": 2.5, "loss": None}, {"step": 3.5, "loss": math.nan}]
    assert plot_loss([*METRICS[:3], *gaps, *METRICS[3:]]) == plot_loss(METRICS)
    assert plot_loss(gaps) == ""
