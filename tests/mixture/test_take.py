"""How much of each source: take, epochs and share, by a draw that does not depend on the other sources."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.mixture.take import Supply, copies, draw_order, nearest, spread
from tests.mixture.world import FakeStore, Talk, mix, places, section


def supply(name, trained, **fields):
    return Supply(section(name, **fields), np.array(trained, np.int64))


def taken(*supplies, seed=0):
    """Number of conversations and of trained tokens of each source."""
    return [
        (int(times.sum()), int(times @ one.trained))
        for one, times in zip(supplies, copies(supplies, seed), strict=True)
    ]


def test_the_draw_is_pinned():
    key = int.from_bytes(hashlib.sha256(b"7:math").digest())
    numbers = np.random.Generator(np.random.PCG64(key)).random(5)
    assert draw_order(5, 7, "math").tolist() == sorted(range(5), key=numbers.__getitem__) == [2, 4, 0, 1, 3]


def test_everything_a_number_or_as_much_as_there_is():
    assert taken(supply("a", [5] * 10)) == [(10, 50)]
    assert taken(supply("a", [5] * 10, take=3)) == [(3, 15)]
    assert taken(supply("a", [5] * 10, take=30)) == [(10, 50)]
    assert taken(supply("a", [5] * 10, take=30, epochs=2)) == [(20, 100)]
    assert taken(supply("a", [], take=3)) == [(0, 0)]


def test_epochs_are_whole_rounds_and_a_part_of_one():
    [times] = copies([supply("a", [5] * 10, epochs=2.3)], 0)
    assert (times.sum(), times.min(), times.max()) == (23, 2, 3)
    assert set(np.flatnonzero(times == 3)) == set(draw_order(10, 0, "a")[:3].tolist())
    [half] = copies([supply("a", [5] * 10, epochs=0.5)], 0)
    assert np.flatnonzero(half).tolist() == sorted(draw_order(10, 0, "a")[:5].tolist())


def test_a_share_is_of_the_trained_tokens_of_the_whole():
    # 600 trained tokens without a share are 75 %, so the whole has 800
    assert taken(supply("a", [6] * 100), supply("b", [4] * 200, share=0.25)) == [(100, 600), (50, 200)]
    assert taken(supply("b", [4] * 200, share=0.15), supply("a", [6] * 100), supply("c", [2] * 99, share=0.1)) == [
        (30, 120), (100, 600), (40, 80),
    ]  # fmt: skip


def test_a_source_too_small_for_its_share_gives_all_it_has_and_the_others_are_not_changed():
    scarce = [supply("a", [6] * 100), supply("b", [4] * 10, share=0.25), supply("c", [1] * 1000, share=0.5)]
    # the whole would have 2,400: b cannot give its 600
    assert taken(*scarce) == [(100, 600), (10, 40), (1000, 1000)]
    scarce[1] = supply("b", [4] * 10, share=0.25, epochs=3)
    assert taken(*scarce)[1] == (30, 120)


def test_with_shares_alone_the_scarcest_source_decides():
    # b can give 200: that is a quarter of 800
    rich = supply("a", [10] * 1000, share=0.75)
    assert taken(rich, supply("b", [20] * 10, share=0.25)) == [(60, 600), (10, 200)]
    assert taken(rich, supply("b", [20] * 10, share=0.25, epochs=2.5)) == [(150, 1500), (25, 500)]
    assert taken(rich, supply("b", [], share=0.25)) == [(0, 0), (0, 0)]


def test_the_nearest_number_of_rows():
    rows = np.array([10, 20, 30])
    sums = {0: 0, 4: 0, 5: 0, 6: 1, 20: 1, 21: 2, 30: 2, 45: 2, 46: 3, 60: 3, 64: 3, 66: 4, 179: 9, 180: 9}
    assert {wanted: nearest(rows, wanted) for wanted in sums} == sums
    assert nearest(np.array([], np.int64), 5) == 0


def test_a_repeat_begins_where_the_first_round_began():
    assert spread(0, np.array([2, 0, 1])).tolist() == [0, 0, 0]
    assert spread(2, np.array([2, 0, 1])).tolist() == [1, 0, 1]
    assert spread(7, np.array([2, 0, 1])).tolist() == [2, 2, 3]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 100), st.integers(1, 100), st.integers(0, 9)
)
def test_a_larger_part_keeps_what_a_smaller_one_has_taken(trained, take, more, seed):
    small, large = (copies([supply("a", trained, take=number, epochs=3)], seed)[0] for number in (take, take + more))
    assert (small <= large).all()
    assert small.sum() == min(take, 3 * len(trained))
    assert large.max() - large.min() <= 1


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.floats(0.05, 0.9),
    st.sampled_from([0.5, 1.0, 2.5]),
    st.integers(1, 2000),
)
def test_a_share_is_met_to_half_a_row_or_all_is_given(trained, share, epochs, fixed):
    one = supply("a", trained, share=share, epochs=epochs)
    [_, (count, tokens)] = taken(supply("fixed", [fixed]), one)
    wanted = share * fixed / (1 - share)
    assert abs(tokens - wanted) <= max(trained) / 2 + 1e-6 or (count == one.most and tokens < wanted)


@given(st.integers(0, 5), st.integers(1, 30))
def test_the_other_sources_do_not_change_what_is_drawn(seed, take):
    one = supply("a", [3] * 40, take=take)
    alone = copies([one], seed)[0]
    among = copies([supply("z", [2] * 9), one, supply("b", [1], share=0.1)], seed)[1]
    assert (alone == among).all()
    assert take > 20 or (alone != copies([one], seed + 1)[0]).any()


def test_the_ledger_of_a_share_says_what_was_reached(tmp_path):
    a, b = FakeStore("a", [Talk((5, 5))] * 30), FakeStore("b", [Talk((6, 6), same_as=str(n)) for n in range(4)])
    a = FakeStore("a", [Talk((5, 5), same_as=f"a{n}") for n in range(30)])
    store = mix(tmp_path, [a, b], [section("b", share=0.2)])
    # 90 of a, 16 of b: 20 % would be 22.5
    assert store.ledger.lines()[1] == "b (messages): 4 rows read; 4 kept; 15.1 % of 20 %"
    assert store.ledger.reached_share(store.ledger["b"]) == pytest.approx(16 / 106)


def test_what_is_not_taken_stands_in_the_ledger(tmp_path):
    a = FakeStore("a", [Talk((5, 5), same_as=str(n)) for n in range(10)])
    store = mix(tmp_path, [a], [section("a", take=4)], seed=3)
    assert places(store) == [("a", row) for row in sorted(draw_order(10, 3, "a")[:4].tolist())]
    assert (store.ledger["a"].not_taken, store.ledger["a"].kept) == (6, 4)
    again = mix(tmp_path / "again", [a], [section("a", take=40, epochs=3)], seed=3)
    assert (again.ledger["a"].taken, again.ledger["a"].kept, again.ledger["a"].missing) == (30, 10, 10)
    assert again.ledger["a"].line() == (
        "a (messages): 10 rows read; 10 kept; 20 repeats; 40 were asked for, so all there are were taken"
    )
    assert places(again)[:4] == [("a", 0), ("a", 0), ("a", 0), ("a", 1)]
