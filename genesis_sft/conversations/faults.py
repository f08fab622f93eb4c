"""What can be wrong with a row, said the same way for all formats."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genesis_sft.errors import DataError

_SHOWN_VALUE, _SHOWN_NAMES = 60, 160  # characters of the data that an error message holds at most
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * _SHOWN_VALUE  # longer than what is shown: cut in one place only
_REPR.maxlevel = 3


class BadRow(DataError):
    """A row that is no conversation.

    Args:
        reason: The kind of fault in a few words, the same for all rows that have it; the ledger counts by it.
        message: What was expected and what was found in this row.
        hint: What to do now.
    """

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        # blocks of rows go to worker processes, and an exception is rebuilt from its message alone by default
        return _rebuild, (self.reason, str(self), self.hint)


def missing_field(field: str, row: Mapping[str, Any]) -> BadRow:
    """Return the error for a row or turn that lacks a field."""
    return BadRow(f"no {field}", f"expected the field {field!r}, found {show_names(map(repr, row)) or 'no fields'}")


def unknown_role(role: Any, roles: Sequence[str], turn: int) -> BadRow:
    """Return the error for a role that does not exist, naming the nearest one that does."""
    shown = show_value(role)
    nearest = difflib.get_close_matches((role if isinstance(role, str) else shown)[:40].lower(), roles, 1, 0.5)
    advice = f"did you mean {nearest[0]!r}?" if nearest else f"it is none of {', '.join(roles)}"
    return BadRow("unknown role", f"expected a role at message {turn}, found {shown}; {advice}")


def wrong_type(what: str, expected: str, found: Any) -> BadRow:
    """Return the error for a field of the wrong type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    kind = names.get(type(found), "a number")
    detail = "" if found is None else f" {show_value(found)}"
    return BadRow("wrong type", f"expected {what} to be {expected}, found {kind}{detail}")


def show_value(value: Any) -> str:
    """Return a value for an error message, cut short: it may be a whole book, or lists a thousand deep."""
    text = repr(value[: _SHOWN_VALUE + 1]) if isinstance(value, str) else _REPR.repr(value)
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 3] + "..."


def show_names(names: Iterable[str]) -> str:
    """Return names for an error message, separated by commas, the list cut short."""
    text = ""
    for name in names:
        text += f", {name}" if text else name
        if len(text) > _SHOWN_NAMES:
            return text[: _SHOWN_NAMES - 3] + "..."
    return text


def _rebuild(reason: str, message: str, hint: str | None) -> BadRow:
    return BadRow(reason, message, hint=hint)
