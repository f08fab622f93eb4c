"""Comma-separated values: the first row names the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genesis_sft.conversations.faults import BadRow, show_names
from genesis_sft.conversations.reading.block import MAX_ROW_BYTES, Chunk, Row
from genesis_sft.conversations.reading.byte_streams import open_bytes
from genesis_sft.errors import DataError


def read_csv(path: Path, block_bytes: int) -> Iterator[Chunk]:
    """Yield the rows of a file, about ``block_bytes`` at a time; all values are text, as they stand.

    A row of more or fewer columns than the first, or with quotes in wrong places, is a bad row. Blank lines are no
    rows and are not counted.

    Raises:
        DataError: The file is damaged, has a line over 64 MB, or names a column twice.
    """
    with open_bytes(path) as (handle, position):
        # what is no UTF-8 is carried as halves of surrogate pairs, which UTF-8 itself cannot give, up to its row
        text = io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows: list[Row | BadRow] = []
        size = 0
        for row in _rows(path, csv.reader(_lines(path, text), strict=True)):
            rows.append(row)
            size += 1 if isinstance(row, BadRow) else sum(map(len, row.values()))
            if size >= block_bytes:
                yield Chunk("rows", rows, len(rows), position())
                rows, size = [], 0
        if rows:
            yield Chunk("rows", rows, len(rows), position())


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_ROW_BYTES):
        if len(line) == MAX_ROW_BYTES:
            raise DataError(f"{path}: expected lines of at most {MAX_ROW_BYTES:,} characters, found a longer one")
        yield line


def _rows(path: Path, reader: Any) -> Iterator[Row | BadRow]:
    try:
        columns: list[str] = _next(reader) or []
    except csv.Error as error:
        raise DataError(f"{path}, line 1: expected the names of the columns, found: {error}") from None
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: expected columns with different names, found {show_names(map(repr, columns))}")
    while True:
        line = reader.line_num + 1
        try:
            values = _next(reader)
        except csv.Error as error:  # the next row begins on the next line
            yield BadRow("not CSV", f"expected a row of CSV from line {line} on, found: {error}")
        else:
            if values is None:
                return
            if values:
                yield _row(columns, values, line)


def _next(reader: Any) -> list[str] | None:
    """Return the next row; ``None`` at the end.

    The limit of a field, 128 KB, is less than long answers have. It is the whole process's: others find it as it was.
    """
    before = csv.field_size_limit(MAX_ROW_BYTES)
    try:
        row: list[str] | None = next(reader, None)
    finally:
        csv.field_size_limit(before)
    return row


def _row(columns: list[str], values: list[str], line: int) -> Row | BadRow:
    if len(values) != len(columns):
        return BadRow("wrong number of columns", f"expected {len(columns)} columns on line {line}, found {len(values)}")
    for column, value in zip(columns, values, strict=True):
        if not value.isascii() and any("\udc80" <= character <= "\udcff" for character in value):
            return BadRow("not UTF-8", f"expected UTF-8 text on line {line}, found other bytes in column {column!r}")
    return dict(zip(columns, values, strict=True))
