from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.checkpoint.tensors.chunks import what_is_wrong
from genesis_sft.checkpoint.tensors.dcp_metadata import Blob, Chunk

_BLOB = Blob("__0_0.distcp", 0, 100)


def box(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Chunk:
    return Chunk(offsets, sizes, _BLOB)


@pytest.mark.parametrize(
    "chunks",
    [
        [box((0, 0), (10, 4))],
        [box((5, 0), (5, 4)), box((0, 0), (5, 4))],
        [box((0, 0), (7, 4)), box((7, 0), (3, 4))],
        [box((0, 0), (10, 1)), box((0, 1), (10, 3))],
        [box((0, 0), (5, 2)), box((0, 2), (5, 2)), box((5, 0), (5, 3)), box((5, 3), (5, 1))],
    ],
)
def test_chunks_that_make_up_the_whole_are_fine(chunks: list[Chunk]) -> None:
    assert what_is_wrong((10, 4), chunks) is None


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([], "cover 0 of 40"),
        ([box((0, 0), (5, 4)), box((6, 0), (4, 4))], "cover 36 of 40"),
        ([box((0, 0), (6, 4)), box((5, 0), (5, 4))], "overlap"),
        ([box((0, 0), (5, 4)), box((0, 0), (5, 4))], "overlap"),  # 40 elements, the second half never
        ([box((0, 0), (10, 3)), box((0, 2), (10, 1))], "overlap"),
        ([box((0, 0), (5, 4)), box((6, 0), (5, 4))], "outside"),
        ([box((0,), (40,))], "outside"),
    ],
)
def test_gaps_overlaps_and_overhangs_are_named(chunks: list[Chunk], problem: str) -> None:
    assert problem in str(what_is_wrong((10, 4), chunks))


def test_an_empty_tensor_needs_no_chunk() -> None:
    assert what_is_wrong((0, 4), []) is None


_boxes = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3))


@given(st.lists(_boxes, max_size=5))
def test_the_verdict_is_that_of_counting_every_element(boxes: list[tuple[int, int, int, int]]) -> None:
    counts: dict[tuple[int, int], int] = {}
    for top, left, height, width in boxes:
        for row in range(top, top + height):
            for column in range(left, left + width):
                counts[row, column] = counts.get((row, column), 0) + 1
    exact = counts == {(row, column): 1 for row in range(3) for column in range(3)}
    chunks = [box((top, left), (height, width)) for top, left, height, width in boxes]
    assert (what_is_wrong((3, 3), chunks) is None) == exact
