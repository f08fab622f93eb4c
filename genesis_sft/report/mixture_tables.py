"""The mixture as tables that add up: where every row went, and what became of every conversation kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis_sft.report import numbers
from genesis_sft.report.tables import Table

LEDGER_COLUMNS = ("rejected", "duplicates", "held_out", "not_taken", "kept")
_COUNTED = ("dropped_over_length", "cut", "examples", "tokens", "trained_tokens")
_LEFT = ("examples", "dropped_over_length", "untrained")


def rows_table(ledger: Mapping[str, Any]) -> Table:
    """Return what became of the rows of each source, with totals.

    Args:
        ledger: ``ledger.json``: under ``sources``, entries with ``name, origin, licence, take, rows_read, rejected
            {reason: n}, duplicates, held_out, not_taken, kept``.
    """
    rows = [
        (
            entry["name"],
            *map(numbers.count, _row_counts(entry)),
            numbers.count(entry["take"]) if entry.get("take") else "all",
        )
        for entry in ledger["sources"]
    ]
    return Table(
        columns=("Source", "Rows read", *map(_heading, LEDGER_COLUMNS), "Asked for"),
        align="lrrrrrrr",
        rows=tuple(rows),
        total=("Total", *map(numbers.count, _totals(ledger)), "") if rows else None,
    )


def rows_check(ledger: Mapping[str, Any]) -> str:
    """Return the sum of the rows written out, or the sources for which it does not hold."""
    wrong = []
    for entry in ledger["sources"]:
        rows_read, *parts = _row_counts(entry)
        if rows_read != sum(parts):
            wrong.append(f"{entry['name']} ({rows_read:,} rows read, {sum(parts):,} accounted for)")
    if wrong:
        return f"The ledger does not add up: {', '.join(wrong)}."
    rows_read, *parts = _totals(ledger)
    terms = [f"{part:,} {_heading(name).lower()}" for part, name in zip(parts, LEDGER_COLUMNS, strict=True)]
    return f"Every row is accounted for: {rows_read:,} rows read = {' + '.join(terms)}."


def rejects_table(ledger: Mapping[str, Any]) -> Table:
    """Return why rows were rejected, most frequent first within a source."""
    rows = [
        (entry["name"], reason, numbers.count(count))
        for entry in ledger["sources"]
        for reason, count in sorted(entry["rejected"].items(), key=lambda one: (-one[1], one[0]))
    ]
    return Table(("Source", "Reason", "Rows"), "llr", tuple(rows))


def sources_table(ledger: Mapping[str, Any]) -> Table:
    """Return where each source comes from, under which licence, and the hash of what was read."""
    fields = ("name", "licence", "format", "origin", "revision", "sha256")
    rows = [tuple(str(entry.get(field) or numbers.MISSING) for field in fields) for entry in ledger["sources"]]
    return Table(("Source", "Licence", "Format", "Origin", "Revision", "SHA-256"), "llllll", tuple(rows))


def tokens_check(ledger: Mapping[str, Any], token_counts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how the kept conversations became examples, as a sum, or the sources for which it does not hold."""
    left = {name: [int(entry.get(field, 0)) for field in _LEFT] for name, entry in token_counts.items()}
    kept = {entry["name"]: entry["kept"] for entry in ledger["sources"]}
    wrong = [
        f"{name} ({kept.get(name, 0):,} kept, {sum(left.get(name, [])):,} accounted for)"
        for name in dict.fromkeys([*kept, *left])
        if kept.get(name, 0) != sum(left.get(name, []))
    ]
    if wrong:
        return f"Examples do not add up to the conversations kept: {', '.join(wrong)}."
    examples, dropped, untrained = [sum(column) for column in zip(*left.values(), strict=True)] or [0, 0, 0]
    return (
        f"Every kept conversation is accounted for: {sum(kept.values()):,} kept = {examples:,} examples + {dropped:,} "
        f"dropped (too long) + {untrained:,} dropped (nothing in it is trained)."
    )


def tokens_table(token_counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return examples and tokens of each source as trained on, with totals and shares.

    Args:
        token_counts: Source to ``examples, tokens, trained_tokens, dropped_over_length, cut, untrained``.
    """
    counts = {name: [int(entry.get(field, 0)) for field in _COUNTED] for name, entry in token_counts.items()}
    totals = [sum(column) for column in zip(*counts.values(), strict=True)] or [0] * len(_COUNTED)
    rows = tuple((name, *_with_shares(row, totals)) for name, row in counts.items())
    return Table(
        columns=(
            "Source",
            "Dropped, too long",
            "Cut",
            "Examples",
            "Share",
            "Tokens",
            "Trained tokens",
            "Share",
            "Trained, of tokens",
        ),
        align="lrrrrrrrr",
        rows=rows,
        total=("Total", *_with_shares(totals, totals)) if rows else None,
    )


def _with_shares(row: list[int], totals: list[int]) -> list[str]:
    dropped, cut, examples, tokens, trained = row
    return [
        numbers.count(dropped),
        numbers.count(cut),
        numbers.count(examples),
        numbers.percent(_share(examples, totals[2])),
        numbers.count(tokens),
        numbers.count(trained),
        numbers.percent(_share(trained, totals[4])),
        numbers.percent(_share(trained, tokens)),
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _row_counts(entry: Mapping[str, Any]) -> list[int]:
    """Return rows read, then the columns that they sum to."""
    return [entry["rows_read"], sum(entry["rejected"].values()), *(entry[name] for name in LEDGER_COLUMNS[1:])]


def _totals(ledger: Mapping[str, Any]) -> list[int]:
    rows = [_row_counts(entry) for entry in ledger["sources"]]
    return [sum(column) for column in zip(*rows, strict=True)] or [0] * (1 + len(LEDGER_COLUMNS))


def _heading(name: str) -> str:
    return name.replace("_", " ").capitalize()
