"""What can be wrong with a row, said the same way for all formats."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from genesis_sft.errors import DataError


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


def missing_field(field: str, row: Mapping[str, Any]) -> BadRow:
    """Return the error for a row or turn that lacks a field."""
    return BadRow(f"no {field}", f"expected the field {field!r}, found {', '.join(map(repr, row)) or 'no fields'}")


def unknown_role(role: Any, roles: Sequence[str], turn: int) -> BadRow:
    """Return the error for a role that does not exist, naming the nearest one that does."""
    nearest = difflib.get_close_matches(str(role).lower(), roles, n=1, cutoff=0.5)
    advice = f"did you mean {nearest[0]!r}?" if nearest else f"it is none of {', '.join(roles)}"
    return BadRow("unknown role", f"expected a role at message {turn}, found {_show(role)}; {advice}")


def wrong_type(what: str, expected: str, found: Any) -> BadRow:
    """Return the error for a field of the wrong type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    kind = names.get(type(found), "a number")
    detail = "" if found is None else f" {_show(found)}"
    return BadRow("wrong type", f"expected {what} to be {expected}, found {kind}{detail}")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
