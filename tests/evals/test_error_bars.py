import pytest

from genesis_sft.evals.error_bars import mean_and_error, ratio_and_error, wilson_interval


def test_standard_error_is_sample_sd_over_root_n():
    # deviations 1/4, -3/4, 1/4, 1/4: squares sum to 3/4, over 3 gives 1/4, over 4 gives 1/16
    assert mean_and_error([1, 0, 1, 1]) == (0.75, 0.25)


def test_a_single_item_has_no_error():
    assert mean_and_error([0.5]) == (0.5, 0.0)
    assert ratio_and_error([6.0], [3]) == (2.0, 0.0)


def test_a_ratio_weighs_long_conversations_more():
    # 6 nats over 4 tokens, not the mean of 2 and 4/3; residuals 2 - 1.5 and 4 - 4.5
    assert ratio_and_error([2.0, 4.0], [1, 3]) == (1.5, 0.25)


def test_wilson_interval_has_its_published_values():
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(2, 2) == pytest.approx((0.3424, 1.0), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
