"""Tests and intervals of paired items: against enumeration, by hand, and by simulation."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.report import paired

BENCH = Path(__file__).resolve().parents[2] / "bench" / "paired_statistics.py"


def load_bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_statistics", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("flips", range(12))
def test_mcnemar_equals_enumeration(flips: int) -> None:
    """Of all ways in which so many fair coins fall, the share that is at least as uneven."""
    falls = [sum(way) for way in itertools.product((0, 1), repeat=flips)]
    for one_way in range(flips + 1):
        uneven = sum(abs(2 * fall - flips) >= abs(2 * one_way - flips) for fall in falls)
        assert paired.mcnemar(one_way, flips - one_way) == uneven / len(falls)


def test_mcnemar_holds_for_all_of_mmlu() -> None:
    assert paired.mcnemar(7021, 7021) == 1.0
    assert paired.mcnemar(3000, 4000) == pytest.approx(math.erfc(999 / math.sqrt(7000 * 2)), rel=0.05)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400))
def test_tangos_interval_holds_the_difference_and_turns_with_it(to_right: int, to_wrong: int, same: int) -> None:
    n = to_right + to_wrong + same
    if not n:
        return
    low, high = paired.tango_interval(to_right, to_wrong, n)
    assert -1 <= low <= (to_right - to_wrong) / n <= high <= 1
    assert paired.tango_interval(to_wrong, to_right, n) == pytest.approx((-high, -low), abs=1e-9)


def test_tangos_interval_has_the_published_value() -> None:
    # Tango 1998, airway hyper-reactivity: 12 and 2 of 50 discordant differently: 1 and 7 of 21
    assert paired.tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=0.002)


def test_tangos_interval_of_no_flips_still_has_a_width() -> None:
    # (n d)^2 <= z^2 n d (1 - d): d <= z^2 / (n + z^2)
    assert paired.tango_interval(0, 0, 100)[1] == pytest.approx(3.8416 / 103.8416)


def test_sign_flips_of_clusters_equal_enumeration() -> None:
    before, after, clusters = [0, 0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1, 1], list("aabcdde")
    totals = [2, -1, 1, 1, 1]
    ways = [sum(s * t for s, t in zip(signs, totals, strict=True)) for signs in itertools.product((1, -1), repeat=5)]
    expected = sum(abs(way) >= 4 for way in ways) / len(ways)
    found = paired.compare_in_clusters(before, after, clusters, draws=49_999)
    assert found.p_value == pytest.approx(expected, abs=0.01)
    assert found.value == pytest.approx(4 / 7)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(6, 15), st.floats(-0.2, 0.2))
def test_the_interval_of_clusters_holds_what_its_test_does_not_refuse(seed: int, count: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(count), random.integers(2, 20, count)).tolist()
    before = random.random(len(clusters)) < 0.5
    after = random.random(len(clusters)) < 0.5 + shift
    found = paired.compare_in_clusters(before.astype(float).tolist(), after.astype(float).tolist(), clusters, 999)
    assert found.p_value is not None
    holds_zero = (found.low is None or found.low <= 0) and (found.high is None or found.high >= 0)
    if abs(found.p_value - 0.05) > 1e-9:  # on the edge rounding decides
        assert holds_zero == (found.p_value > 0.05)


def test_too_few_clusters_allow_no_interval_and_no_claim() -> None:
    one = paired.compare_in_clusters([0.0] * 9, [1.0] * 9, ["law"] * 9)
    assert (one.value, one.low, one.high, one.p_value) == (1.0, None, None, 1.0)
    three = paired.compare_in_clusters([0.0] * 9, [1.0] * 9, list("aaabbbccc"))
    assert (three.low, three.high) == (None, None)
    assert three.p_value == pytest.approx(0.25, abs=0.02)


def test_the_bootstrap_gives_the_ratio_its_error_and_the_same_draws_each_time() -> None:
    # -16 / 40 = -0.4; residuals -10 + 4 = -6 and -6 + 12 = 6; sqrt(2 / 1 * 72) / 40 = 12 / 40
    before, after, sizes = [20.0, 60.0], [10.0, 54.0], [10, 30]
    found = paired.compare_totals(before, after, sizes)
    assert (found.value, found.standard_error) == (pytest.approx(-0.4), pytest.approx(0.3))
    assert found == paired.compare_totals(before, after, sizes)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(1, 5000)), min_size=1, max_size=30))
def test_the_bootstrap_gives_numbers_whatever_it_is_given(rows: list[tuple[float, float, int]]) -> None:
    before, after, sizes = (list(column) for column in zip(*rows, strict=True))
    found = paired.compare_totals(before, after, sizes, draws=99)
    assert math.isfinite(found.value)
    assert found.p_value is None or 0 < found.p_value <= 1
    if found.low is not None and found.high is not None:
        assert found.low <= found.value <= found.high


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.floats(-0.5, 0.5), st.booleans())
def test_the_interval_of_nats_holds_what_its_test_does_not_refuse(
    seed: int, n: int, shift: float, skewed: bool
) -> None:
    random = np.random.default_rng(seed)
    change = (random.exponential(1, n) - 1 if skewed else random.normal(0, 1, n)) + shift
    found = paired.compare_totals([0.0] * n, change.tolist(), random.integers(1, 50, n).tolist(), draws=999)
    assert found.p_value is not None
    holds_zero = (found.low is None or found.low <= 0) and (found.high is None or found.high >= 0)
    assert holds_zero == (found.p_value > 0.05)


@pytest.mark.parametrize(("shift", "larger"), [(-1.07, "equal-tailed"), (-0.55, "symmetric")])
def test_few_skewed_units_take_the_larger_of_two_p_values(shift: float, larger: str) -> None:
    """Student's t of resamples, each from its own mean and deviation: their tails differ where units are skewed."""
    change = np.random.default_rng(5).exponential(1, 30) + shift
    resampled = change[np.random.default_rng(9).integers(0, 30, (20_000, 30))]
    t_resampled = (resampled.mean(1) - change.mean()) / resampled.std(1, ddof=1) * math.sqrt(30)
    t = change.mean() / change.std(ddof=1) * math.sqrt(30)
    expected = {
        "symmetric": float(np.mean(abs(t_resampled) >= abs(t))),
        "equal-tailed": 2 * float(min(np.mean(t_resampled <= t), np.mean(t_resampled >= t))),
    }
    assert min(expected.values()) < 0.05 < expected[larger]
    found = paired.compare_totals([0.0] * 30, change.tolist(), [1] * 30)
    assert found.p_value == pytest.approx(expected[larger], abs=0.005)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high  # that of the other test alone would not hold 0


def test_the_bootstrap_is_near_students_test_where_that_is_right() -> None:
    # 60 normal differences: t(59) is 2.001 at 97.5 %
    differences = np.random.default_rng(0).normal(0.1, 1, 60)
    found = paired.compare_totals([0.0] * 60, differences.tolist(), [1] * 60)
    error = differences.std(ddof=1) / math.sqrt(60)
    assert found.high == pytest.approx(differences.mean() + 2.001 * error, abs=0.15 * error)


def test_alike_differences_have_no_spread_to_test_against() -> None:
    none = paired.compare_totals([1.0, 2.0], [1.0, 2.0], [1, 1])
    assert (none.value, none.low, none.high, none.p_value) == (0.0, 0.0, 0.0, 1.0)
    alike = paired.compare_totals([0.0] * 6, [0.5] * 6, [1] * 6)
    assert (alike.low, alike.high, alike.p_value) == (None, None, 2 / 64)
    assert paired.compare_totals([1.0], [2.0], [1]).p_value is None


def test_holm_by_hand() -> None:
    # sorted 0.01 * 3, 0.02 * 2 (which is more), 0.5 * 1
    assert paired.holm([0.5, 0.01, None, 0.02]) == (0.5, 0.03, None, 0.04)
    assert paired.holm([0.04, 0.03]) == (0.06, 0.06)  # never falling
    assert paired.holm([0.9, 0.8]) == (1.0, 1.0)


def test_smallest_visible_is_two_point_eight_errors_and_never_below_the_floor() -> None:
    assert paired.smallest_visible(0.1) == pytest.approx(0.28)
    assert paired.smallest_visible(0.0, floor=0.25) == 0.25
    assert paired.smallest_visible(None, floor=0.25) is None


NAMES = [one.name for one in load_bench().scenarios()]


@pytest.mark.parametrize("name", NAMES)
def test_few_false_positives_and_honest_intervals(name: str) -> None:
    """A light version of the benchmark, with bounds that 300 draws of a right test pass in 999 of 1,000."""
    bench = load_bench()
    [scenario] = [one for one in bench.scenarios() if one.name == name]
    found = bench.simulate(scenario, draws=300)
    assert found.false_positives <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / 300)
    assert 0.95 - 3.1 * math.sqrt(0.05 * 0.95 / 300) <= found.coverage


def test_mcnemars_test_is_too_bold_where_subjects_move_together() -> None:
    bench = load_bench()
    [scenario] = [one for one in bench.scenarios() if one.name.startswith("humanities")]
    found = bench.simulate(scenario, draws=200)
    assert found.other_false_positives > 0.2 > 2 * found.false_positives


def test_subjects_in_which_nothing_changed_leave_an_interval() -> None:
    """As items by themselves do: that none of 40 changed does not say that none ever would."""
    outcomes, subjects = [1.0, 0.0] * 20, [number // 4 for number in range(40)]
    found = paired.compare_in_clusters(outcomes, outcomes, subjects)
    assert (found.low, found.high) == paired.tango_interval(0, 0, 40)
    assert found.low < 0 < found.high
    assert found.p_value == 1


def test_changes_that_cancel_within_their_subject_leave_an_interval() -> None:
    """One item of a subject got right, another got wrong: no subject moved, and yet items did."""
    before, subjects = [1.0, 0.0] * 20, [number // 4 for number in range(40)]
    after = [0.0, 1.0, *before[2:]]
    found = paired.compare_in_clusters(before, after, subjects)
    assert (found.low, found.high) == paired.tango_interval(1, 1, 40)
    assert found.low < 0 < found.high
    assert found.p_value == 1
