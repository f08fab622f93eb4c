"""Whether the chunks of a tensor make up the whole of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genesis_sft.checkpoint.tensors.dcp_metadata import Chunk, Sizes


def what_is_wrong(shape: Sizes, chunks: Sequence[Chunk]) -> str | None:
    """Return what keeps the chunks from covering every element of a tensor exactly once, or None.

    Chunks of rows 0 to 4 and 6 to 9 of a ``(10, 4)`` matrix give ``"its chunks cover 36 of 40 elements"``: the row
    between them would be whatever was in memory before.
    """
    for chunk in chunks:
        if len(chunk.sizes) != len(shape) or any(end > size for end, size in zip(chunk.ends, shape, strict=True)):
            return f"a chunk at {chunk.offsets} of size {chunk.sizes} lies outside its shape {shape}"
    if overlap := _first_overlap(shape, chunks):
        return "its chunks at {} and {} overlap".format(*(chunk.offsets for chunk in overlap))
    covered, needed = sum(math.prod(chunk.sizes) for chunk in chunks), math.prod(shape)
    return f"its chunks cover {covered} of {needed} elements" if covered != needed else None


def _first_overlap(shape: Sizes, chunks: Sequence[Chunk]) -> tuple[Chunk, Chunk] | None:
    """Return two chunks that share an element.

    They are compared along the dimension that is cut most often, in order, so that only neighbours meet: a tensor in
    1,000 chunks of rows takes 1,000 comparisons.
    """
    if len(chunks) < 2 or not shape:
        return (chunks[0], chunks[1]) if len(chunks) > 1 else None
    axis = max(range(len(shape)), key=lambda dimension: len({chunk.offsets[dimension] for chunk in chunks}))
    ordered = sorted(chunks, key=lambda chunk: chunk.offsets[axis])
    for place, first in enumerate(ordered):
        for second in ordered[place + 1 :]:
            if second.offsets[axis] >= first.ends[axis]:
                break
            if _share_an_element(first, second):
                return first, second
    return None


def _share_an_element(first: Chunk, second: Chunk) -> bool:
    return all(
        start < other_end and other_start < end
        for start, end, other_start, other_end in zip(
            first.offsets, first.ends, second.offsets, second.ends, strict=True
        )
    )
