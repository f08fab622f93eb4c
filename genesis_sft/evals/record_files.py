"""A record in a folder: written atomically, and read back exactly as it was or not at all.

::

    record.json      the record: settings, versions, scores, outcomes of all items
    samples.jsonl    one line an item of a benchmark: hashes, log-likelihoods, outcomes
    answers.jsonl    one line a chat answer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from genesis_sft.errors import InputError
from genesis_sft.evals.check_record import check_record
from genesis_sft.evals.record import RECORD_VERSION, EvalRecord
from genesis_sft.run_dir import write_text

RECORD, SAMPLES, ANSWERS = "record.json", "samples.jsonl", "answers.jsonl"

T = TypeVar("T")


def save_record(record: EvalRecord, folder: Path) -> None:
    """Write ``record.json``, atomically."""
    write_text(folder / RECORD, _as_lines(record.to_json()) + "\n")


def open_record(path: Path) -> EvalRecord:
    """Read a record back, exactly as it was.

    Args:
        path: A record folder, or a ``record.json``.

    Raises:
        InputError: There is no record, or it is of another version, or it is damaged: what it says does not fit
            together, or a number in it cannot have been measured.
    """
    file = path / RECORD if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found = values.get("version") if isinstance(values, dict) else None
        if found != RECORD_VERSION:
            raise InputError(
                f"expected an evaluation record of version {RECORD_VERSION} in {file}, found {found!r}",
                hint="Another version of genesis-sft wrote it: evaluate the model again, or run the recipe again.",
            )
        record = from_values(EvalRecord, values)
        check_record(record)
        return record
    except OSError as error:
        raise InputError(
            f"expected an evaluation record at {file}: {error.strerror}",
            hint="Name a folder that `genesis-sft eval --out` or the stages before and after of a run wrote.",
        ) from None
    except (ValidationError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or ["empty"])[0]
        raise InputError(f"expected an evaluation record in {file}, found a damaged one: {first}") from None


def from_values(kind: type[T], values: Any) -> T:
    """Build a dataclass from the values that ``dataclasses.asdict`` gave, e.g. after a round trip through JSON.

    Raises:
        ValueError: They are not.
    """
    return TypeAdapter(kind).validate_python(values)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _as_lines(value: Any, indent: str = "") -> str:
    """Return JSON with one line a field, and lists of numbers or names on one line."""
    inner = indent + "  "
    if isinstance(value, Mapping) and value:
        fields = (f"{inner}{json.dumps(key)}: {_as_lines(entry, inner)}" for key, entry in value.items())
        return "{\n" + ",\n".join(fields) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)) and any(isinstance(entry, Mapping) for entry in value):
        return "[\n" + ",\n".join(f"{inner}{_as_lines(entry, inner)}" for entry in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
