"""Where what was found differs from what was expected: in plain values by field, in texts by line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

_LONGEST = 80
_CLOSE = 1e-9
_NOTHING = "nothing"


@dataclass(frozen=True)
class Difference:
    """A value that is not what it should be.

    Attributes:
        file: Relative to the run folder, e.g. ``"before/record.json"``.
        field: What differs in it, e.g. ``"tasks.2.value"`` or ``"line 17"``.
    """

    file: str
    field: str
    found: str
    expected: str


def differing_values(
    file: str, found: Any, expected: Any, where: str = "", *, close: bool = False
) -> Iterator[Difference]:
    """Yield each field whose values differ.

    Args:
        file: The file that ``found`` was read from.
        found: Plain JSON values.
        expected: The same, as they should be.
        where: Where in the file they stand.
        close: Whether numbers may differ in the last digits, as those of other sums in another order do.
    """
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in {**expected, **found}:
            inner = f"{where}.{key}" if where else str(key)
            if key not in found or key not in expected:
                yield Difference(
                    file, inner, *(_shown(one[key]) if key in one else _NOTHING for one in (found, expected))
                )
            else:
                yield from differing_values(file, found[key], expected[key], inner, close=close)
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        if len(found) != len(expected):
            yield Difference(file, where, f"{len(found)} entries", f"{len(expected)}")
            return
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differing_values(file, one, other, f"{where}.{number}" if where else str(number), close=close)
    elif not (_same(found, expected) or (close and _is_close(found, expected))):
        yield Difference(file, where, _shown(found), _shown(expected))


def differing_lines(file: str, found: str, expected: str) -> Iterator[Difference]:
    """Yield the first line of two texts that differs."""
    for number, (one, other) in enumerate(zip_longest(found.split("\n"), expected.split("\n")), 1):
        if one != other:
            start = _first_unlike(one or "", other or "")
            yield Difference(file, f"line {number}", *(_part(line, start) for line in (one, other)))
            return


def _same(found: Any, expected: Any) -> bool:
    return type(found) is type(expected) and found == expected


def _is_close(found: Any, expected: Any) -> bool:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (found, expected))
    return numbers and math.isclose(found, expected, rel_tol=_CLOSE, abs_tol=_CLOSE**2)


def _first_unlike(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _part(line: str | None, start: int) -> str:
    """Return the part of a line where two differ, with what stands a little before it."""
    if line is None:
        return _NOTHING
    begin = max(0, start - _LONGEST // 4)
    return _shown(line[begin : begin + _LONGEST])


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST + 2 else text[: _LONGEST + 1] + "…"
