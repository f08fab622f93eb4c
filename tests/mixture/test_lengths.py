"""Long conversations: dropped, cut or split between exchanges, on ids alone; nothing is lost without being counted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.mixture.lengths import Markers, Piece, Turns, clip, find_turns, fit, num_exchanges
from genesis_sft.mixture.verify import verify
from tests.mixture.world import IM_END, NEWLINE, FakeStore, Talk, dropped, mix, places, section

MARKERS = Markers(IM_END, 1)


def test_turns_are_found_in_the_ids():
    assert find_turns(np.array([9, 1, 2, 9, 9, 1, 2]), MARKERS) == Turns(0, [7])
    # three messages: the first is the system's
    assert find_turns(np.array([9, 1, 2, 9, 1, 2, 9, 9, 1, 2]), MARKERS) == Turns(3, [10])
    five = np.array(Talk((3, 4, 5, 6, 7)).ids(0))
    assert find_turns(five, MARKERS) == Turns(3, [12, 25])
    # a line break of two tokens ends later
    assert find_turns(np.array([9, 1, 2, 2, 9, 1, 2, 2]), Markers(1, 2)) == Turns(0, [8])


def test_ids_that_are_no_conversation_are_refused():
    for ids, found in (([9, 9], "ends of messages, found 0"), ([9, 1, 2, 9, 1, 2, 9], "to end at 7, found 6")):
        with pytest.raises(AssertionError, match=found):
            find_turns(np.array(ids), MARKERS)


@pytest.mark.parametrize(
    ("rule", "max_length", "pieces"),
    [
        ("cut_at_turn", 60, [Piece(0, 0, 60)]),
        ("cut_at_turn", 59, [Piece(0, 0, 40)]),
        ("cut_at_turn", 39, []),
        # 10 of system message, then exchanges of 30, 20 and 40
        ("split", 60, [Piece(0, 0, 60), Piece(10, 60, 100)]),
        ("split", 59, [Piece(0, 0, 40), Piece(10, 40, 60), Piece(10, 60, 100)]),
        ("split", 49, [Piece(0, 0, 40), Piece(10, 40, 60)]),
        ("split", 39, [Piece(10, 40, 60)]),
        ("split", 29, []),
    ],
)
def test_whole_exchanges_that_fit(rule, max_length, pieces):
    assert fit(Turns(10, [40, 60, 100]), rule, max_length) == pieces


def test_without_a_system_message_nothing_is_put_in_front():
    assert fit(Turns(0, [30, 50, 90]), "split", 60) == [Piece(0, 0, 50), Piece(0, 50, 90)]


def test_an_exchange_that_does_not_fit_ends_the_piece_before_it():
    assert fit(Turns(0, [10, 100, 110, 120]), "split", 40) == [Piece(0, 0, 10), Piece(0, 100, 120)]


def test_labels_move_with_their_piece():
    assert clip([(4, 8), (14, 18), (24, 28)], Piece(0, 0, 20)) == [(4, 8), (14, 18)]
    assert clip([(4, 8), (14, 18), (24, 28)], Piece(2, 10, 30)) == [(6, 10), (16, 20)]
    assert clip([(4, 12)], Piece(0, 0, 6)) == [(4, 6)]
    # labels in the system message are not trained once more with each piece
    assert clip([(1, 4), (6, 8), (14, 18)], Piece(5, 10, 20)) == [(9, 13)]
    assert clip([(1, 4), (6, 8), (14, 18)], Piece(0, 0, 10)) == [(1, 4), (6, 8)]


@given(st.integers(0, 30), st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 120))
def test_pieces_fit_are_in_order_and_leave_out_only_what_cannot_fit(system, exchanges, max_length):
    stops = (system + np.cumsum(exchanges)).tolist()
    turns = Turns(system, stops)
    pieces = fit(turns, "split", max_length)
    covered = []
    for piece in pieces:
        length = piece.num_tokens if piece.start else piece.stop
        assert length <= max_length
        first = [system, *stops].index(piece.start or system)
        covered += list(range(first, first + num_exchanges(turns, piece)))
    assert covered == [n for n, length in enumerate(exchanges) if system + length <= max_length]
    # greedy: no two neighbouring pieces fit into one
    for one, two in pairwise(pieces):
        assert (one.stop != two.start) or system + two.stop - (one.start or system) > max_length


def test_a_split_conversation_in_the_mixture(tmp_path):
    long = Talk((4, 10, 20, 6, 24, 12, 28), bucket=500)  # system 4, exchanges of 30, 30, 40
    a = FakeStore("a", [Talk((5, 5)), long, Talk((30, 40, 5, 5))])
    store = mix(tmp_path, [a], max_length=64, over_length="split")
    assert places(store) == [("a", 0), ("a", 1), ("a", 1), ("a", 2)]
    ids = a.ids(1).tolist()
    assert store.train.input_ids(1).tolist() == ids[:64]
    assert store.train.input_ids(2).tolist() == ids[:4] + ids[64:]
    assert store.train.trained(1) == [(15, 33), (41, 63)]
    assert store.train.trained(2) == [(17, 43)]
    assert store.train.num_tokens_per_row.tolist() == [10, 64, 44, 10]
    assert store.train.num_trained_per_row.tolist() == [3, 18 + 22, 26, 3]
    entry = store.ledger["a"]
    assert (entry.kept, entry.taken, entry.examples, entry.split, entry.cut, entry.lost_exchanges) == (3, 3, 4, 1, 1, 1)
    assert (entry.tokens, entry.trained_tokens) == (128, 72)
    store = mix(tmp_path, [a], max_length=64, over_length="cut_at_turn")
    assert store.train.num_tokens_per_row.tolist() == [10, 64]
    entry = store.ledger["a"]
    assert (entry.kept, entry.over_length, entry.split, entry.cut, entry.lost_exchanges) == (2, 1, 0, 1, 1)
    store = mix(tmp_path, [a], max_length=64, over_length="split", held_out=0.06)
    assert places(store, "held_out") == [("a", 1), ("a", 1)]
    entry = store.ledger["a"]
    assert (entry.held_out, entry.held_out_examples, entry.held_out_tokens, entry.held_out_trained_tokens) == (
        1, 2, 108, 66,
    )  # fmt: skip
    assert (entry.split, entry.lost_exchanges) == (0, 1)


@pytest.mark.parametrize("rule", ["drop", "cut_at_turn", "split"])
def test_a_conversation_of_just_the_longest_length_stays_whole(tmp_path, rule):
    a = FakeStore("a", [Talk((20, 30, 20, 30)), Talk((5, 5))])
    assert mix(tmp_path, [a], max_length=100, over_length=rule).train.num_tokens_per_row.tolist() == [100, 10]
    assert mix(tmp_path, [a], max_length=99, over_length=rule).train.num_tokens_per_row.tolist() == {
        "drop": [10], "cut_at_turn": [50, 10], "split": [50, 50, 10],
    }[rule]  # fmt: skip


def test_a_piece_without_a_label_never_enters(tmp_path):
    a = FakeStore("a", [Talk((20, 30, 20, 30), trained=[False, True]), Talk((20, 30, 20, 30), trained=[False, False])])
    store = mix(tmp_path, [a], max_length=60, over_length="split")
    assert [store.train.index.piece(n) for n in range(len(store.train))] == [Piece(0, 50, 100)]
    assert (store.ledger["a"].lost_exchanges, store.ledger["a"].untrained) == (1, 1)
    cut = mix(tmp_path / "cut", [a, FakeStore("c", [Talk((5, 5))])], max_length=60, over_length="cut_at_turn")
    assert dropped(cut) == [("a", 0, "nothing trained"), ("a", 1, "nothing trained")]


def test_copies_of_a_split_conversation_stand_side_by_side(tmp_path):
    a = FakeStore("a", [Talk((20, 30, 20, 30)), Talk((5, 5))])
    store = mix(tmp_path, [a], [section("a", epochs=2)], max_length=60, over_length="split")
    assert [(store.train.row(n), store.train.index.piece(n)) for n in range(6)] == [
        (0, Piece(0, 0, 50)), (0, Piece(0, 50, 100)), (0, Piece(0, 0, 50)), (0, Piece(0, 50, 100)),
        (1, Piece(0, 0, 10)), (1, Piece(0, 0, 10)),
    ]  # fmt: skip
    entry = store.ledger["a"]
    assert (entry.kept, entry.taken, entry.examples, entry.split) == (2, 4, 6, 1)
    assert entry.line() == "a (messages): 2 rows read; 2 kept; 2 repeats; 1 split"


talks = st.builds(
    Talk,
    st.lists(st.integers(3, 30), min_size=2, max_size=9),
    st.sampled_from([0, 9_999]),
    st.sampled_from(["", "", "x", "y"]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(talks, min_size=1, max_size=6), min_size=1, max_size=3),
    st.sampled_from(["drop", "cut_at_turn", "split"]),
    st.integers(10, 120),
    st.sampled_from([0.5, 1.0, 1.6, 3.0]),
)
def test_whatever_the_sources_the_ledger_adds_up(tmp_path_factory, sources, rule, max_length, epochs):
    stores = [FakeStore(f"s{number}", talks, {"bad": number + 1}) for number, talks in enumerate(sources)]
    stores.append(FakeStore("last", [Talk((4, 4), same_as="z")]))
    sections = [section(store.name, epochs=epochs) for store in stores[:-1]]
    folder = tmp_path_factory.mktemp("mixture")
    store = mix(folder, stores, sections, max_length=max_length, over_length=rule, held_out=0.1)
    verify(store)  # also done in building: here it is shown that a finished folder passes
    for side in (store.train, store.held_out):
        for index in range(len(side)):
            ids, spans = side.input_ids(index), side.trained(index)
            assert len(ids) == side.num_tokens(index) <= max_length
            assert sum(stop - start for start, stop in spans) == side.num_trained(index) > 0
            assert all(ids[stop - 1] == IM_END and ids[stop] == NEWLINE for _, stop in spans)
