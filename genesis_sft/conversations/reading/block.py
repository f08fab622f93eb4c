"""A block of raw rows: what travels from the process that reads to those that parse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from genesis_sft.conversations.faults import BadRow, wrong_type

Row = Mapping[str, Any]
Kind = Literal["lines", "arrow", "rows"]
Unit = Literal["line", "row"]

BLOCK_BYTES = 8 * 2**20
"""Text in one block: enough that handing it on costs little, few enough that all processes have work."""

MAX_ROW_BYTES = 64 * 2**20
"""A longer row is refused, not held in memory: it is a damaged file rather than a conversation."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next rows of one file, as its reader found them.

    Attributes:
        kind: What ``payload`` is: lines as bytes, an Arrow IPC stream as bytes, or a list of rows.
        payload: The rows, unparsed where that is possible.
        num_rows: How many row numbers they take; blank lines count.
        position: Bytes of the file read so far.
    """

    kind: Kind
    payload: bytes | list[Row | BadRow]
    num_rows: int
    position: int


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one file, not parsed yet, small enough to be handed to another process.

    Attributes:
        number: Number of the block in its source, from 0.
        first_row: Number of its first row in the source; rows count through the files.
        file: Name of the file, or of the Hub data set.
        first_row_in_file: Number of its first row in the file.
        unit: What holds one row: a line of the file, or something else.
        kind: What ``payload`` is: lines as bytes, an Arrow IPC stream as bytes, or a list of rows.
        payload: The rows.
        num_bytes: How far the reading of the source came with this block, in bytes of its files.
    """

    number: int
    first_row: int
    file: str
    first_row_in_file: int
    unit: Unit
    kind: Kind
    payload: bytes | list[Row | BadRow]
    num_bytes: int


def parse_block(block: Block) -> Iterator[tuple[int, Row | BadRow]]:
    r"""Yield (row number in the source, row, or what is wrong with it), in order.

    Lines end at ``\n`` only: U+2028 and the like are legal inside JSON text. Blank lines are skipped, but counted, so
    that the number of a row in its file plus one is its line.

    Example:
        >>> list(parse_block(Block(0, 7, "a.jsonl", 0, "line", "lines", b'{"a": 1}\n\n{"a": 2}\n', 20)))
        [(7, {'a': 1}), (9, {'a': 2})]
    """
    if isinstance(block.payload, list):
        yield from enumerate(block.payload, start=block.first_row)
    elif block.kind == "arrow":
        from genesis_sft.conversations.reading.arrow_rows import unpack

        yield from enumerate(unpack(block.payload), start=block.first_row)
    else:
        for row, line in enumerate(block.payload.split(b"\n"), start=block.first_row):
            if line and not line.isspace():
                yield row, _parse_line(line)


def _parse_line(line: bytes) -> Row | BadRow:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_slowly(line)
    return value if isinstance(value, dict) else wrong_type("the row", "an object", value)


def _parse_slowly(line: bytes) -> Row | BadRow:
    """Parse what orjson refuses: NaN and halves of surrogate pairs are read, the rest has its fault named."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(
            "not UTF-8", f"expected UTF-8 text, found byte 0x{line[error.start]:02X} at byte {error.start} of the line"
        )
    except json.JSONDecodeError as error:
        return BadRow("not JSON", f"expected one JSON object, found bad JSON: {error.msg} (column {error.colno})")
    except RecursionError as error:
        return BadRow("not JSON", f"expected one JSON object, found bad JSON: {error}")
    except ValueError:  # Python reads no numbers of thousands of digits
        return BadRow("not JSON", "expected one JSON object, found a whole number of too many digits")
    return value if isinstance(value, dict) else wrong_type("the row", "an object", value)
