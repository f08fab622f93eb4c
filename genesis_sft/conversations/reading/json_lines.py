"""JSON lines, in blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.reading.block import MAX_ROW_BYTES, Chunk
from genesis_sft.conversations.reading.byte_streams import BYTE_ORDER_MARK, open_bytes


def read_lines(path: Path, block_bytes: int) -> Iterator[Chunk]:
    """Yield the lines of a file, about ``block_bytes`` at a time; a line over 64 MB becomes a bad row.

    Raises:
        DataError: The file is damaged.
    """
    block_bytes = min(max(block_bytes, len(BYTE_ORDER_MARK)), MAX_ROW_BYTES)
    begun: list[bytes] = []  # the line that has not ended yet
    length = 0  # of that line; where it is too long, only this is kept of it
    with open_bytes(path) as (handle, position):
        text = handle.read(block_bytes).removeprefix(BYTE_ORDER_MARK)
        while text:
            end = text.find(b"\n")
            if end >= 0 and length + end > MAX_ROW_BYTES:
                yield _too_long(length + end, position())
                text, begun, length = text[end + 1 :], [], 0
            stop = text.rfind(b"\n") + 1
            if stop:
                yield Chunk("lines", b"".join([*begun, text[:stop]]), text.count(b"\n"), position())
                begun, length = [], 0
            begun.append(text[stop:])
            length += len(text) - stop
            if length > MAX_ROW_BYTES:
                begun = []
            text = handle.read(block_bytes)
        if length > MAX_ROW_BYTES:
            yield _too_long(length, position())
        elif length:
            yield Chunk("lines", b"".join(begun), 1, position())


def _too_long(num_bytes: int, position: int) -> Chunk:
    fault = BadRow("row too long", f"expected a row of at most {MAX_ROW_BYTES:,} bytes, found {num_bytes:,}")
    return Chunk("rows", [fault], 1, position)
