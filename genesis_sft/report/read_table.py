"""Benchmark results from a file: results of lm-evaluation-harness, our own record, or a table that somebody typed.

A table has the columns task, metric and value, and may have stderr, n and chance, in any order::

    | task          | metric   | value  | chance |
    | ------------- | -------- | ------ | ------ |
    | arc_challenge | acc_norm | 25.9 % | 0.25   |

The harness's own Markdown, where an empty cell under Tasks means the task above it, is such a table too. Nothing is
left out: a row whose value is not one number is kept without a value.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from genesis_sft.errors import InputError
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.record_files import RECORD
from genesis_sft.report.read_harness import harness_rows
from genesis_sft.report.scores import ScoreRow, check_row, metric_name, read_number, shown, task_name

MAX_BYTES = 32_000_000
"""A record of all benchmarks with all outcomes has about 4 MB."""

MAX_SCORES = 5_000

# what a column may be called, small letters only
_NAMES_OF_COLUMNS = {
    "task": "task tasks benchmark",
    "metric": "metric",
    "value": "value score result",
    "standard_error": "stderr error stderror standarderror",
    "n": "n rows items",
    "chance": "chance",
}
_COLUMN_OF = {name: column for column, names in _NAMES_OF_COLUMNS.items() for name in names.split()}
_NOTHING = ("", "-", "–", "—", "n/a", "na", "none")
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
_HINT = (
    "Name results of lm-evaluation-harness (JSON), a record.json, or a Markdown, CSV or TSV table with the columns "
    "task, metric and value."
)


def read_table(path: Path) -> tuple[ScoreRow, ...]:
    """Return the scores of a file; the same row twice is kept once.

    Raises:
        InputError: The file is missing, too large or no text, holds no table, or a number in it cannot be one.
    """
    if path.is_dir() and (path / RECORD).is_file():
        path = path / RECORD
    text = _read_text(path)
    rows = _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_cells(text, path)
    unique = tuple(dict.fromkeys(rows))
    if not 0 < len(unique) <= MAX_SCORES:
        found = f"{len(unique):,}" if unique else "none"
        raise InputError(f"expected 1 to {MAX_SCORES:,} benchmark scores in {path}, found {found}", hint=_HINT)
    for row in unique:
        check_row(row, path)
    return unique


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"expected a file with benchmark results at {path}; there is none", hint=_HINT)
    with open(path, "rb") as handle:
        content = handle.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"expected at most {MAX_BYTES // 10**6} MB of results, found more in {path}", hint=_HINT)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in UTF-8 in {path}; byte {error.start:,} is none", hint=_HINT) from None
    if "\0" in text:
        raise InputError(f"expected text in {path}, found zero bytes", hint=_HINT)
    return text


# --- JSON: the harness, or a record ---------------------------------------------------------------------------------


def _from_json(text: str, path: Path) -> Iterator[ScoreRow]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {path}: {error}", hint=_HINT) from None
    if isinstance(values, dict) and isinstance(values.get("results"), dict):
        yield from harness_rows(values, path)
    elif isinstance(values, dict) and "tasks" in values and "version" in values:
        # what is known of published and of broken models is known of benchmarks put as plain text
        for task in (task for task in EvalRecord.open(path).tasks if task.surface == "raw"):
            value = f"{task.value:.6g}"
            yield ScoreRow(task.task, task.metric, task.value, task.standard_error, task.n, task.chance, value)
    else:
        raise InputError(f'expected an object with "results" (lm-evaluation-harness) or a record in {path}', hint=_HINT)


# --- tables: Markdown, CSV, TSV -------------------------------------------------------------------------------------


def _from_cells(text: str, path: Path) -> Iterator[ScoreRow]:
    """Yield the rows below every header, up to a line that belongs to no table."""
    columns: dict[str, int] = {}
    task = ""
    for number, cells in _markdown_lines(text) or _delimited_lines(text, path):
        if header := _header(cells):
            columns, task = header, ""
        elif not cells:
            columns = {}
        elif columns and not all(set(cell) <= set("-: ") for cell in cells):  # but for the line under a header
            found = {name: cells[place] if place < len(cells) else "" for name, place in columns.items()}
            task = found["task"] or task
            yield _row(found | {"task": task}, f"line {number:,} of {path}")


def _markdown_lines(text: str) -> list[tuple[int, list[str]]]:
    """Return the number and cells of every line, no cells where it has no bar; nothing where no table is found."""
    lines = [(number, _markdown_cells(line)) for number, line in enumerate(text.splitlines(), 1)]
    return lines if any(_header(cells) for _, cells in lines) else []


def _delimited_lines(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """Return the same for CSV (commas or semicolons) and TSV, without empty lines."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max("\t,;", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        lines = [(reader.line_num, [_plain(cell) for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise InputError(f"line {reader.line_num:,} of {path} cannot be read: {error}", hint=_HINT) from None
    if not lines or not _header(lines[0][1]):
        raise InputError(f"expected a table with the columns task, metric and value in {path}", hint=_HINT)
    return lines


def _markdown_cells(line: str) -> list[str]:
    line = line.strip()
    cells = [_plain(cell.replace(r"\|", "|")) for cell in _BETWEEN_CELLS.split(line)]
    if len(cells) < 2:
        return []
    return cells[1 if line.startswith("|") else 0 : -1 if line.endswith("|") else None]


def _plain(cell: str) -> str:
    """Return a cell without what makes it bold or code."""
    return cell.strip().strip("*`").strip()


def _header(cells: Sequence[str]) -> dict[str, int]:
    """Return the place of each column that is known; empty where this is no header."""
    names = [re.sub(r"[^a-z]", "", cell.casefold()) for cell in cells]
    places = {_COLUMN_OF[name]: place for place, name in enumerate(names) if name in _COLUMN_OF}
    return places if {"task", "metric", "value"} <= places.keys() else {}


def _row(cells: Mapping[str, str], where: str) -> ScoreRow:
    written, _, beside = cells["value"].partition("±")
    is_one = written.casefold().strip() not in _NOTHING and not _are_several(written)
    count = _optional(cells.get("n", ""), where)
    if count is not None and (count < 1 or count != int(count)):
        raise InputError(f"expected a number of items in {where}, found {shown(cells['n'])}")
    return ScoreRow(
        task_name(cells["task"]),
        metric_name(cells["metric"]),
        read_number(written, where) if is_one else None,
        _optional(cells.get("standard_error", "") or beside, where),
        None if count is None else int(count),
        _optional(cells.get("chance", ""), where),
        shown(cells["value"], quoted=False),
    )


def _are_several(text: str) -> bool:
    """Whether a cell holds the values of several things: ``0.2455 / 0.2750 / 0.2658``."""
    parts = text.split("/")
    try:
        for part in parts:
            read_number(part, "")
    except InputError:
        return False
    return len(parts) > 1


def _optional(text: str, where: str) -> float | None:
    text = text.strip().removeprefix("±").strip()
    return None if text.casefold() in _NOTHING else read_number(text, where)
