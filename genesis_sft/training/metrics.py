"""Metrics of a run as JSON lines, one a step; on a resume, lines of steps that are done again are cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends one JSON line a step; a context manager.

    Args:
        path: The file.
        first_step: Lines of this step (counted from 1) and later ones, left by a killed run, are dropped.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        kept = [row for row in read_metrics(path) if row["step"] < first_step]
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(path)
        self._handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held until __exit__

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is in the file when the call returns."""
        self._handle.write(json.dumps(row) + "\n")
        self._handle.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, its lines on disk."""
        os.fsync(self._handle.fileno())
        self._handle.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of steps 1, 2, 3, ... of a metrics file; what follows a gap or a cut line is left out."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict) or row.get("step") != len(rows) + 1:
                break
            rows.append(row)
    return rows


def count_steps(path: Path) -> int:
    """Return how many steps, from the first on, a metrics file has rows of."""
    return len(read_metrics(path))
