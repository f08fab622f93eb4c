"""The verdict's sentences as data, and the headline that counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["better", "worse", "open", "chance", "warning", "note"]

KIND_WORDS: dict[Kind, str] = {
    "warning": "Warning",
    "better": "Better",
    "worse": "Worse",
    "open": "Cannot be told",
    "chance": "Says nothing",
    "note": "Keep in mind",
}


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict.

    Attributes:
        kind: ``open`` means that it cannot be told.
        subject: What it is about.
        text: The sentence.
        count: How many measurements it speaks of.
    """

    kind: Kind
    subject: str
    text: str
    count: int = 1


def headline(findings: Sequence[Finding]) -> str:
    """Return the verdict in one sentence, by counting the measurements that the findings speak of."""
    counts = {
        kind: sum(one.count for one in findings if one.kind == kind) for kind in ("better", "worse", "open", "chance")
    }
    total = sum(counts.values())
    if not total:
        return "Nothing was measured before and after."
    parts = [f"{counts['better']} better", f"{counts['worse']} worse", f"{counts['open']} cannot be told"]
    if counts["chance"]:
        parts.append(f"{counts['chance']} at chance, saying nothing")
    return f"Of {total} measurement{'s' if total > 1 else ''}: {', '.join(parts)}."
