"""What a run writes down as JSON lines: a row of metrics for each step, and a row for each event beside them.

metrics.jsonl   {"step": 7, "loss": 1.31, "learning_rate": 2e-05, "grad_norm": 0.83, "tokens": 5412, ...}
events.jsonl    {"step": 50, "kind": "held_out", "loss": 1.42, "sources": {"safety": 1.38, "sums": 1.46}}

On a resume, rows of steps that are done again are cut off. A file may be read at any time, from a copy too: a last line
that is half there is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from genesis_sft.errors import RunDirError
from genesis_sft.run_dir import without_nan, write_text

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
_SMOOTHING = 0.9


class _JsonLines:
    """A file of JSON lines that is appended to; a context manager."""

    def __init__(self, path: Path, kept: Iterable[Mapping[str, Any]]) -> None:
        self._path = path
        try:
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
            self._handle = open(path, "ab", buffering=0)  # noqa: SIM115 - held until __exit__
        except OSError as error:
            raise _not_written(path, error) from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row, null in place of numbers that are not finite; it is in the file when the call returns."""
        line = json.dumps(without_nan(row), allow_nan=False).encode() + b"\n"
        try:
            while line:  # a disk that fills up takes a part first, and refuses the rest
                line = line[self._handle.write(line) :]
        except OSError as error:
            raise _not_written(self._path, error) from None

    def sync(self) -> None:
        """See the lines onto the disk."""
        os.fsync(self._handle.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, its lines on disk."""
        self.sync()
        self._handle.close()


class MetricsLog(_JsonLines):
    """Appends one row a step; a context manager.

    Args:
        path: The file.
        first_step: Rows of this step (counted from 1) and later ones, left by a killed run, are dropped.

    Raises:
        RunDirError: The file cannot be written, now or later.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        super().__init__(path, (row for row in read_metrics(path) if row["step"] < first_step))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is in the file when the call returns."""
        self.append(row)


class EventsLog(_JsonLines):
    """Appends what happens now and then: held-out losses, samples, alarms, notes; a context manager.

    Args:
        path: The file.
        first_step: As for `MetricsLog`; what was noted before the first step has step 0, and stays.

    Raises:
        RunDirError: The file cannot be written, now or later.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self._rows = [row for row in read_events(path) if row["step"] < first_step]
        super().__init__(path, self._rows)

    def write(self, step: int, kind: str, **values: Any) -> None:
        """Append an event, unless it stands there already: a resumed run notes at its start what it noted before."""
        row = without_nan({"step": step, "kind": kind, **values})
        if row not in self._rows:
            self._rows.append(row)
            self.append(row)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of steps 1, 2, 3, ... of a metrics file; what follows a gap or a cut line is left out."""
    rows: list[dict[str, Any]] = []
    for row in _read_lines(path):
        if row.get("step") != len(rows) + 1:
            break
        rows.append(row)
    return rows


def read_events(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of an events file, of one kind or of all; what follows a cut line is left out."""
    rows = (row for row in _read_lines(path) if type(row.get("step")) is int and isinstance(row.get("kind"), str))
    return [row for row in rows if kind in (None, row["kind"])]


def count_steps(path: Path) -> int:
    """Return how many steps, from the first on, a metrics file has rows of."""
    return len(read_metrics(path))


def smoothed(before: float | None, value: float | None) -> float | None:
    """Return the next value of an exponential mean: nine parts of what it was, one of the new value.

    Args:
        before: What it was; None at the first step.
        value: The new value; None where there is none, and then nothing changes.
    """
    if before is None or value is None:
        return before if value is None else value
    return _SMOOTHING * before + (1 - _SMOOTHING) * value


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, up to the first line that is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # not there yet, or just moved to where the finished stage lies
        return
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(row, dict):
            return
        yield row


def _not_written(path: Path, error: OSError) -> RunDirError:
    return RunDirError(
        f"expected to write {path}: {error.strerror}",
        hint="Make room or give access, and start the same command again: it goes on from the last checkpoint.",
    )
