from __future__ import annotations

import pytest

from genesis_sft.report import statistics


def test_standard_error_divides_by_n_minus_one() -> None:
    # 1, 2, 3: sd 1, over sqrt(3)
    assert statistics.standard_error([1.0, 2.0, 3.0]) == pytest.approx(3**-0.5)


def test_one_value_has_no_standard_error() -> None:
    assert statistics.standard_error([1.0]) is None
    assert statistics.ratio_standard_error([1.0], [3]) is None


def test_the_error_of_a_ratio_comes_from_its_residuals() -> None:
    # -16 / 40 = -0.4; residuals -10 + 4 = -6 and -6 + 12 = 6; sqrt(2 / 1 * 72) / 40 = 12 / 40
    assert statistics.ratio_standard_error([-10.0, -6.0], [10, 30]) == pytest.approx(0.3)


def test_wilson_interval_by_hand() -> None:
    # 2 of 4: centre 0.5, half 1.96 / 7.8416 * sqrt(1 + 0.9604) = 0.34996
    share = statistics.wilson(2, 4)
    assert (share.value, share.low, share.high) == pytest.approx((0.5, 0.15004, 0.84996), abs=1e-4)


def test_sign_test_by_counting() -> None:
    # 6 flips, 1 the other way: 2 * (1 + 6) / 64
    assert statistics.sign_test(5, 1) == statistics.sign_test(1, 5) == pytest.approx(14 / 64)
    assert statistics.sign_test(6, 0) == pytest.approx(2 / 64)
    assert statistics.sign_test(0, 0) == 1.0
    assert statistics.sign_test(3, 3) == 1.0


def test_smallest_visible_is_two_point_eight_errors_and_never_below_the_floor() -> None:
    assert statistics.smallest_visible(0.1) == pytest.approx(0.28)
    assert statistics.smallest_visible(0.0, floor=0.25) == 0.25
    assert statistics.smallest_visible(None, floor=0.25) is None


def test_median_of_an_even_number_lies_between_the_two_in_the_middle() -> None:
    assert statistics.median([9, 1, 4]) == 4
    assert statistics.median([9, 1, 4, 5]) == 4.5
