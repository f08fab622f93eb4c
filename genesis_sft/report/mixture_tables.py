"""The mixture as tables that add up: where every row went, and what is trained on. All of it from the ledger.

A column that is zero everywhere is left out: a mixture without near duplicates has no column for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genesis_sft.mixture.ledger import ROWS
from genesis_sft.report import numbers
from genesis_sft.report.tables import Table

_ALWAYS = ("rejected", "duplicates", "kept")
_TOKENS = ("taken", "examples", "tokens", "trained_tokens")


def rows_table(ledger: Mapping[str, Any]) -> Table:
    """Return what became of the rows of each source, with totals.

    Args:
        ledger: ``ledger.json``; see `genesis_sft.mixture.ledger`.
    """
    entries = ledger["sources"]
    columns = [name for name in ROWS if name in _ALWAYS or any(_rows(entry, name) for entry in entries)]
    asks = any(_asked_for(entry) != "all" for entry in entries)
    rows = [
        (
            entry["name"],
            numbers.count(entry["rows_read"]),
            *(numbers.count(_rows(entry, name)) for name in columns),
            *([_asked_for(entry)] if asks else []),
        )
        for entry in entries
    ]
    totals = [sum(entry["rows_read"] for entry in entries)]
    totals += [sum(_rows(entry, name) for entry in entries) for name in columns]
    return Table(
        columns=("Source", "Rows read", *map(_heading, columns), *(["Asked for"] if asks else [])),
        align="lr" + "r" * (len(columns) + asks),
        rows=tuple(rows),
        total=("Total", *map(numbers.count, totals), *([""] if asks else [])) if rows else None,
    )


def rows_check(ledger: Mapping[str, Any]) -> str:
    """Return the sum of the rows written out, or the sources for which it does not hold."""
    wrong = []
    for entry in ledger["sources"]:
        found = sum(_rows(entry, name) for name in ROWS)
        if entry["rows_read"] != found:
            wrong.append(f"{entry['name']} ({entry['rows_read']:,} rows read, {found:,} accounted for)")
    if wrong:
        return f"The ledger does not add up: {', '.join(wrong)}."
    sums = {name: sum(_rows(entry, name) for entry in ledger["sources"]) for name in ROWS}
    terms = [f"{count:,} {_heading(name).lower()}" for name, count in sums.items() if count or name == "kept"]
    return f"Every row is accounted for: {sum(sums.values()):,} rows read = {' + '.join(terms)}."


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
    fields = ("name", "licence", "format", "origin", "revision", "engine", "sha256")
    rows = [tuple(str(entry.get(field) or numbers.MISSING) for field in fields) for entry in ledger["sources"]]
    return Table(("Source", "Licence", "Format", "Origin", "Revision", "Encoded by", "SHA-256"), "lllllll", tuple(rows))


def tokens_table(ledger: Mapping[str, Any]) -> Table:
    """Return conversations, examples and tokens of each source as trained on, with totals and shares."""
    entries = ledger["sources"]
    totals = {name: sum(entry[name] for entry in entries) for name in _TOKENS}
    same = totals["taken"] == totals["examples"]
    rows = tuple((entry["name"], *_tokens(entry, totals, same)) for entry in entries)
    counted = ("Examples",) if same else ("Conversations", "Examples")
    return Table(
        columns=("Source", *counted, "Share", "Tokens", "Trained tokens", "Share", "Trained, of tokens"),
        align="l" + "r" * (len(counted) + 5),
        rows=rows,
        total=("Total", *_tokens(totals, totals, same)) if rows else None,
    )


def tokens_check(ledger: Mapping[str, Any]) -> str:
    """Return in sentences how rows became examples, and how what was asked for was met."""
    entries = ledger["sources"]
    total = {name: sum(entry[name] for entry in entries) for name in ("kept", *_TOKENS, "cut", "lost_exchanges")}
    terms = [f"{total['kept']:,} rows kept"]
    if repeats := total["taken"] - total["kept"]:
        terms.append(f"{repeats:,} repeats")
    if further := total["examples"] - total["taken"]:
        terms.append(f"{further:,} further parts of conversations that were split")
    sentences = [f"{total['examples']:,} examples = {' + '.join(terms)}."]
    if total["lost_exchanges"]:
        sentences.append(
            f"{total['cut']:,} of the rows were too long to keep whole: {total['lost_exchanges']:,} exchanges are left "
            "out."
        )
    return " ".join([*sentences, *_asked_and_found(ledger, total)])


def stats_table(stats: Mapping[str, Any]) -> Table:
    """Return lengths, turns and trained share of the examples of each source, and of all.

    Args:
        stats: Of `genesis_sft.mixture.stats.MixtureStats.to_json`.
    """
    return Table(
        columns=(
            "Source", "Examples", "Tokens", "Trained", "Min", "Median", "Mean", "95 %", "Max",
            f"At {stats['max_length']:,}", "Answers",
        ),
        align="l" + "r" * 10,
        rows=tuple((name, *_lengths(entry)) for name, entry in stats["sources"].items()),
        total=("Total", *_lengths(stats["total"])),
    )  # fmt: skip


def _lengths(entry: Mapping[str, Any]) -> Sequence[str]:
    lengths = (entry[name] for name in ("min", "median", "mean", "p95", "max"))
    return [
        numbers.count(entry["examples"]),
        numbers.count(entry["tokens"]),
        numbers.percent(entry["trained_share"]),
        *(f"{length:,.0f}" for length in lengths),
        numbers.percent(entry["at_max_length"]),
        f"{entry['turns']:.1f}",
    ]


def _asked_and_found(ledger: Mapping[str, Any], total: Mapping[str, int]) -> list[str]:
    """Return a sentence for each thing that the recipe asks for and that did not come out so, and on benchmarks."""
    sentences = []
    for entry in ledger["sources"]:
        if entry.get("share") is not None:
            reached = numbers.percent(_share(entry["trained_tokens"], total["trained_tokens"]))
            sentences.append(
                f"{entry['name']} has {reached} of the trained tokens, of {entry['share'] * 100:g} % asked."
            )
        if (missing := (entry.get("take") or 0) - entry["taken"]) > 0:
            sentences.append(f"{entry['name']} has {missing:,} fewer than the {entry['take']:,} asked for.")
    expected = ledger.get("expected_total")
    if expected is not None:
        difference = total["taken"] - expected
        more = f"{abs(difference):,} {'more' if difference > 0 else 'fewer'} than" if difference else "as many as"
        sentences.append(f"{total['taken']:,} conversations are {more} the {expected:,} expected.")
    if marked := sum(entry.get("marked", 0) for entry in ledger["sources"]):
        sentences.append(f"{marked:,} conversations hold a benchmark item and were not left out for it.")
    return sentences


def _tokens(counts: Mapping[str, int], totals: Mapping[str, int], same: bool) -> Sequence[str]:
    taken, examples, tokens, trained = (counts[name] for name in _TOKENS)
    return [
        *([] if same else [numbers.count(taken)]),
        numbers.count(examples),
        numbers.percent(_share(examples, totals["examples"])),
        numbers.count(tokens),
        numbers.count(trained),
        numbers.percent(_share(trained, totals["trained_tokens"])),
        numbers.percent(_share(trained, tokens)),
    ]


def _asked_for(entry: Mapping[str, Any]) -> str:
    """Return what the recipe asks of a source, as short as can be."""
    times = "" if entry.get("epochs", 1) == 1 else f" ×{entry['epochs']:g}"
    if entry.get("share") is not None:
        return f"{entry['share'] * 100:g} %{times}"
    return (numbers.count(entry["take"]) if entry.get("take") else "all") + times


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _rows(entry: Mapping[str, Any], name: str) -> int:
    return sum(entry["rejected"].values()) if name == "rejected" else int(entry[name])


def _heading(name: str) -> str:
    return name.replace("_", " ").capitalize()
