import numpy as np
import pytest

from genesis_sft.evals.error_bars import (
    clustered_mean_and_error,
    mean_and_error,
    ratio_and_error,
    wilson_interval,
)


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


def test_alike_items_of_a_cluster_count_as_one():
    # cluster sums of deviations 1 and -1: sqrt(2 / 1 * 2) / 4
    assert clustered_mean_and_error([1, 0, 1, 0], ["law", "art", "law", "art"]) == (0.5, 0.5)
    # opposite items cancel within their cluster
    assert clustered_mean_and_error([1, 0, 1, 0], ["law", "law", "art", "art"]) == (0.5, 0.0)


def test_without_real_clusters_the_error_is_the_plain_one():
    assert clustered_mean_and_error([1, 0, 1, 1], range(4)) == pytest.approx(mean_and_error([1, 0, 1, 1]))
    assert clustered_mean_and_error([1, 0, 1, 1], ["only"] * 4) == mean_and_error([1, 0, 1, 1])


def test_the_clustered_error_is_the_spread_of_the_mean_over_repeated_evaluations():
    """57 subjects of unequal size, each with a difficulty of its own: the plain error sees half of the spread."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(10, 60, 57)
    clusters = np.repeat(np.arange(57), sizes).tolist()
    means, clustered, plain = [], [], []
    for _ in range(300):
        ability = np.clip(draw.normal(0.5, 0.15, 57), 0, 1)
        values = (draw.random(len(clusters)) < np.repeat(ability, sizes)).astype(float).tolist()
        mean, error = clustered_mean_and_error(values, clusters)
        means.append(mean)
        clustered.append(error)
        plain.append(mean_and_error(values)[1])
    spread = float(np.std(means, ddof=1))
    assert float(np.mean(clustered)) == pytest.approx(spread, rel=0.12)  # 300 draws tell the spread to 4 %
    assert float(np.mean(plain)) < 0.7 * spread
