from __future__ import annotations

import math

import pytest

from genesis_sft.report import numbers


@pytest.mark.parametrize(
    ("nats", "shown"),
    [(4.05, "57.4"), (15.0275, "3,360,000"), (28.0, "10^12"), (0.0, "1.00"), (11.5, "98,700")],
)
def test_perplexities_have_three_digits(nats: float, shown: str) -> None:
    assert numbers.perplexity(nats) == shown


def test_a_difference_stands_with_its_interval_where_there_is_one() -> None:
    assert numbers.points_interval(0.031, 0.007, 0.055) == "+3.1 (0.7 to 5.5)"
    assert numbers.points_interval(-0.031, -0.055, 0.007) == "−3.1 (−5.5 to 0.7)"
    assert numbers.points_interval(-0.031, None, None) == "−3.1"
    assert numbers.nats_interval(-0.2141, -0.2384, -0.19) == "−0.214 (−0.238 to −0.190)"


def test_what_rounds_to_nothing_has_no_sign() -> None:
    assert numbers.points_interval(-0.0001, -0.0004, 0.0004) == "0.0 (0.0 to 0.0)"
    assert numbers.nats(-0.00001) == "0.000"


def test_negative_numbers_have_a_true_minus_sign() -> None:
    assert numbers.nats(-4.25) == "−4.250"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (1.0, "1"), (0.034, "0.034"), (0.0011, "0.0011"), (0.0009, "< 0.001"), (0.0, "< 0.001")],
)
def test_a_p_value_has_two_digits_and_never_is_nothing(value: float | None, shown: str) -> None:
    assert numbers.p_value(value) == shown


@pytest.mark.parametrize("value", [None, math.nan, math.inf, True, "1"])
def test_only_finite_numbers_are_numbers(value: object) -> None:
    assert not numbers.is_number(value)
    assert numbers.is_number(1)
