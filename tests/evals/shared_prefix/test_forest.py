"""Every position of every request is in one pass, below its own ancestors, and what is shared stands there once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.evals.shared_prefix import forest
from genesis_sft.evals.shared_prefix.forest import Pass, Row, cut_into_passes, num_tokens
from genesis_sft.evals.shared_prefix.reading import cut_into_blocks

ROW = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
ROWS = st.lists(ROW, min_size=1, max_size=25)


def ancestors(one: Pass, token: int) -> list[int]:
    """The tokens of a pass that a token sees, itself included, by the rule that subtrees are in one piece."""
    return [other for other in range(token + 1) if one.ends[other] > token]


def check(rows: Sequence[Row], passes: Sequence[Pass], max_tokens: int) -> None:
    read: list[list[int]] = [[] for _ in rows]
    headers: list[Row] = [()]
    for one in passes:
        while headers[-1] != one.header:  # nested: only beginnings of the latest are still there
            headers.pop()
        if one.is_header:
            headers.append((*one.header, *one.tokens.tolist()))
        assert len(one) <= max_tokens or len(one.rows) == 1 or len({rows[name] for name in one.rows}) == 1
        assert len(one) > 0
        for name, where in zip(one.rows, one.places, strict=True):
            assert rows[name][: len(one.header)] == one.header
            depths = range(len(one.header), len(one.header) + len(where))
            assert one.depths[where].tolist() == list(depths)
            read[name] += depths
            for at, place in enumerate(where.tolist()):
                assert one.tokens[place] == rows[name][len(one.header) + at]
                assert ancestors(one, place) == where[: at + 1].tolist()
    assert [sorted(one) for one in read] == [list(range(len(row))) for row in rows]


@given(rows=ROWS, max_tokens=st.integers(1, 40), keep_from=st.integers(1, 6))
def test_every_position_is_read_once_below_its_own_ancestors(rows: list[Row], max_tokens: int, keep_from: int) -> None:
    before = forest.KEEP_FROM
    forest.KEEP_FROM = keep_from
    try:
        check(rows, cut_into_passes(rows, max_tokens), max_tokens)
    finally:
        forest.KEEP_FROM = before


@given(rows=ROWS)
def test_with_room_for_all_nothing_is_read_twice(rows: list[Row]) -> None:
    prefixes = {row[:length] for row in rows for length in range(1, len(row) + 1)}
    assert sum(map(len, cut_into_passes(rows, 10**6))) == len(prefixes) == num_tokens(rows)


def test_the_example_of_the_docstring() -> None:
    first, second = cut_into_passes([(5, 6, 7), (5, 6, 8), (9,)], 4)
    assert first.tokens.tolist() == [5, 6, 7, 8]
    assert first.depths.tolist() == [0, 1, 2, 2]
    assert first.ends.tolist() == [4, 4, 3, 4]
    assert [place.tolist() for place in first.places] == [[0, 1, 2], [0, 1, 3]]
    assert second.tokens.tolist() == [9]
    assert (first.rows, second.rows) == ((0, 1), (2,))


def test_a_long_beginning_is_read_once_and_kept() -> None:
    """As of the questions of a subject behind five examples, by more passes than one."""
    beginning = tuple(range(100, 400))
    rows = [(*beginning, question, 7, 8) for question in range(90)] + [(1, 2, 3)]
    passes = cut_into_passes(rows, 128)
    headers = [one for one in passes if one.is_header]
    assert [len(one) for one in headers] == [128, 128, 44]
    assert headers[1].header == beginning[:128]
    assert sum(map(len, passes)) == 300 + 3 * 90 + 3
    assert {one.header for one in passes if not one.is_header} == {(), beginning}
    check(rows, passes, 128)


def test_a_short_beginning_is_read_again() -> None:
    rows = [(1, 2, 3, question, 7) for question in range(90)]
    passes = cut_into_passes(rows, 43)  # 3 + 20 * 2
    assert [len(one) for one in passes] == [43] * 4 + [23]
    assert not any(one.is_header for one in passes)


def test_a_request_that_ends_within_the_beginning_of_others() -> None:
    beginning = tuple(range(200))
    rows = [beginning, beginning[:150], *((*beginning, n) for n in range(100))]
    check(rows, cut_into_passes(rows, 90), 90)


@pytest.mark.parametrize("block_tokens", [1, 3, 8, 1000])
@given(rows=ROWS, max_tokens=st.integers(1, 60))
def test_blocks_cover_a_pass_and_know_their_path(block_tokens: int, rows: list[Row], max_tokens: int) -> None:
    from genesis_sft.evals.shared_prefix import reading

    before = reading._BLOCK_TOKENS
    reading._BLOCK_TOKENS = block_tokens
    try:
        for one in cut_into_passes(rows, max_tokens):
            blocks = list(cut_into_blocks(one))
            covered = sorted(token for start, stop, _ in blocks for token in range(start, stop))
            assert covered == list(range(len(one)))
            for start, stop, path in blocks:
                for token in range(start, stop):
                    # what it sees is the path, and those of its own block in whose subtree it is
                    within = [other for other in range(start, token + 1) if one.ends[other] > token]
                    assert [*path, *within] == ancestors(one, token)
    finally:
        reading._BLOCK_TOKENS = before


def test_places_are_integers_that_index() -> None:
    (one,) = cut_into_passes([(1, 2)], 10)
    assert one.places[0].dtype == np.int64
