from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.report.drawing import log_scale, round_scale, short, thin_out, tick_label

NUMBERS = st.floats(-1e100, 1e100, allow_nan=False)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_a_scale_holds_all_values_and_has_few_ticks(values: list[float]) -> None:
    scale = round_scale(values)
    rounding = 1e-6 * (scale.high - scale.low)
    assert scale.low - rounding <= min(values) <= max(values) <= scale.high + rounding
    assert 2 <= len(scale.ticks) <= 8
    assert all(one < other for one, other in pairwise(scale.ticks))
    assert all(0 <= scale.part(value) <= 1 for value in values)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_scale_of_shares_does_not_begin_below_nothing(values: list[float]) -> None:
    scale = round_scale([100 * value for value in values], floor=0.0)
    assert 0 <= scale.low < scale.high
    assert len(scale.ticks) >= 2


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=20))
def test_a_logarithmic_scale_holds_all_values_between_powers_of_ten(values: list[float]) -> None:
    scale = log_scale(values)
    assert scale.low <= min(values) * (1 + 1e-6)
    assert scale.high >= max(values) * (1 - 1e-6)
    assert 2 <= len(scale.ticks) <= 7


def test_ticks_are_round() -> None:
    assert round_scale([0.0, 100.0]).ticks == (0, 25, 50, 75, 100)
    assert round_scale([1.31, 3.42]).ticks == (1, 2, 3, 4)
    assert log_scale([0.002, 0.5]).ticks == (0.001, 0.01, 0.1, 1)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1.0, 2.0], ["1.00", "1.25", "1.50", "1.75", "2.00"]),
        ([-20.0, 20.0], ["−20", "−10", "0", "10", "20"]),
        ([1.31, 3.42], ["1", "2", "3", "4"]),
        ([0.0, 1e-5], ["0", "2.5e-06", "5e-06", "7.5e-06", "1e-05"]),
    ],
)
def test_labels_have_the_digits_that_tell_them_apart(values: list[float], labels: list[str]) -> None:
    scale = round_scale(values)
    assert [tick_label(tick, scale) for tick in scale.ticks] == labels


def test_a_value_lies_where_its_logarithm_does() -> None:
    scale = log_scale([0.001, 10.0])
    assert scale.part(0.1) == pytest.approx(0.5)
    assert scale.part(0.0) == 0
    assert scale.part(1e9) == 1


def test_few_points_are_kept_as_they_are_and_of_many_the_extremes() -> None:
    points = [(float(step), 1.0) for step in range(10_000)]
    points[5_003] = (5_003.0, 99.0)
    points[7_777] = (7_777.0, -99.0)
    thinned = thin_out(points, 100)
    assert len(thinned) <= 100
    assert {points[5_003], points[7_777]} <= set(thinned)
    assert thinned == sorted(thinned)
    assert thin_out(points[:100], 100) == points[:100]


def test_a_long_name_is_cut_and_stands_on_one_line() -> None:
    assert short("a\n b") == "a b"
    assert short("a_long_name_number_14", 12) == "a_long_…r_14"
    assert short("a_long_name", 11) == "a_long_name"
