"""Rows of local files: .jsonl, .jsonl.gz, .json (one array), .parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from genesis_sft.conversations.faults import BadRow, wrong_type
from genesis_sft.errors import DataError

Row = Mapping[str, Any]

_READABLE = ".jsonl, .jsonl.gz, .json or .parquet"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DAMAGED = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Rows:
    """The rows of one file or data set, ready to be read once.

    Attributes:
        total: Number of rows.
        rows: Row number from 0, and the row, or what is wrong with it.
        unit: What holds one row: ``"line"`` for JSON lines, else ``"row"``.
    """

    total: int
    rows: Iterator[tuple[int, Row | BadRow]]
    unit: str = "row"


def open_file(path: Path) -> Rows:
    r"""Open a local file of rows.

    Lines end at ``\n`` only: U+2028 and the like are legal inside JSON text. Blank lines are skipped, but counted, so
    that a row's number plus one is its line.

    Raises:
        DataError: There is no such file, its name tells no known kind, or it is damaged.
    """
    if not path.is_file():
        raise DataError(
            f"expected a file of conversations at {path}, found {what_is_at(path)}",
            hint="Correct the source's path; it is relative to the recipe.",
        )
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return Rows(_count_lines(path), _read_lines(path), unit="line")
    if path.suffix == ".json":
        return _open_array(path)
    if path.suffix == ".parquet":
        return _open_parquet(path)
    raise DataError(f"expected a {_READABLE} file, found {path.name}", hint="Convert it, or rename it if it is one.")


def what_is_at(path: Path) -> str:
    """Return what is found where a file was expected."""
    if path.is_dir():
        return "a folder"
    return "a pipe or device" if path.exists() else "nothing"


def _open_bytes(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def _count_lines(path: Path) -> int:
    """Count the lines that are not blank."""
    try:
        with _open_bytes(path) as handle:
            return sum(1 for line in handle if line.strip())
    except _DAMAGED as error:
        raise _damaged(path, error) from None


def _read_lines(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    try:
        with _open_bytes(path) as handle:
            for number, line in enumerate(handle):
                if number == 0:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if line.strip():
                    yield number, _parse_line(line)
    except _DAMAGED as error:
        raise _damaged(path, error) from None


def _parse_line(line: bytes) -> Row | BadRow:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(
            "not UTF-8", f"expected UTF-8 text, found byte 0x{line[error.start]:02X} at byte {error.start} of the line"
        )
    except json.JSONDecodeError as error:
        return BadRow("not JSON", f"expected one JSON object, found bad JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError) as error:
        return BadRow("not JSON", f"expected one JSON object, found bad JSON: {error}")
    return _as_row(row)


def _as_row(row: Any) -> Row | BadRow:
    return row if isinstance(row, dict) else wrong_type("the row", "an object", row)


def _open_array(path: Path) -> Rows:
    try:
        array = json.loads(path.read_bytes().removeprefix(_BYTE_ORDER_MARK).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, found another byte at byte {error.start}") from None
    except json.JSONDecodeError as error:
        hint = "Is it JSON lines? Then name it .jsonl." if error.msg == "Extra data" else None
        raise DataError(
            f"{path}, line {error.lineno}: expected a JSON array, found bad JSON: {error.msg}", hint=hint
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a JSON array, found bad JSON: {error}") from None
    if not isinstance(array, list):
        raise DataError(f"{path}: {wrong_type('the file', 'an array of rows', array)}")
    return Rows(len(array), ((number, _as_row(row)) for number, row in enumerate(array)))


def _open_parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None

    def rows() -> Iterator[tuple[int, Row | BadRow]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1000):
                # no format reads times, and Python cannot hold all that Arrow can
                read = [i for i, field in enumerate(batch.schema) if not pyarrow.types.is_temporal(field.type)]
                for row in batch.select(read).to_pylist():
                    yield number, row
                    number += 1
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
            raise _damaged(path, error) from None

    return Rows(file.metadata.num_rows, rows())


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} cannot be read to its end: {error}", hint="Fetch or write the file again.")
