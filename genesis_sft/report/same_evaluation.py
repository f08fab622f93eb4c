"""Whether two records are of the same evaluation; if not, the first difference is named.

Raises :class:`genesis_sft.errors.InputError` throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from genesis_sft.errors import InputError

MAY_DIFFER = ("batch_size", "data", "device", "held_out", "pass_tokens", "seed", "tasks", "threads")
"""Settings that change no outcome but by rounding, or whose effect shows in the documents themselves. All others must
agree."""

_ROUNDED_BY = ("device", "threads")

_HINT = "Evaluate both models with the same evals section of the recipe."


def refuse_other_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse settings that differ where they could change an outcome."""
    for name in sorted({*before, *after} - {*MAY_DIFFER}):
        if before.get(name) != after.get(name):
            refuse(f"the setting {name}", f"{before.get(name)}", f"{after.get(name)}")


def note_other_rounding(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Say of each setting that decides the order of sums, and hence rounding, where it differs."""
    return tuple(
        f"Measured with {name} {before[name]} before training and {name} {after[name]} after: sums are rounded "
        "differently, and a greedy answer can depend on that where two tokens are nearly as likely."
        for name in _ROUNDED_BY
        if name in before and name in after and before[name] != after[name]
    )


def refuse_unless_same(what: str, before: Iterable[str], after: Iterable[str]) -> None:
    """Refuse two collections that do not hold the same things; name the first that only one of them holds."""
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    for side, names, others in (("before", old, new), ("after", new, old)):
        for name in names:
            if name not in others:
                found = f"{what} {name} stands only in the record {side} training"
                raise InputError(f"expected two records of the same evaluation; {found}", hint=_HINT)


def refuse(what: str, before: str, after: str) -> None:
    """Refuse, saying what it is and how it was before and after."""
    raise InputError(
        f"expected two records of the same evaluation; {what} has {before} before training and {after} after",
        hint=_HINT,
    )
