"""The tables of the report as data: written once, rendered to HTML, Markdown and JSON from the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.console import format_duration
from genesis_sft.report import numbers
from genesis_sft.report.changes import Comparison, HeldOutChange, StopChange, TaskChange
from genesis_sft.report.findings import Kind
from genesis_sft.report.paired import FEWEST_ITEMS
from genesis_sft.report.verdict import held_out_kind, stop_interval, stop_kind, task_kind

_WORDS = {"better": "better", "worse": "worse", "open": "cannot be told", "chance": "not above chance"}


@dataclass(frozen=True)
class Table:
    """A table of plain text.

    Attributes:
        columns: Headings.
        align: One letter a column: ``l`` for text, ``r`` for numbers.
        rows: Cells, as many a row as there are columns.
        marks: What each row's note says, for its colour; as many as rows, or none at all.
        total: A last row that sums up those above it.
    """

    columns: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()
    total: tuple[str, ...] | None = None


def task_table(tasks: Sequence[TaskChange]) -> Table:
    """Return the benchmarks: before, after, paired difference with its interval, Holm's p, chance, items, note."""
    return Table(
        columns=(
            "Benchmark",
            "Metric",
            "Before",
            "After",
            "Difference (95 %)",
            "p (Holm)",
            "Visible from",
            "Chance",
            "Items",
            "Note",
        ),
        align="llrrrrrrrl",
        rows=tuple(_task_row(task) for task in tasks),
        marks=tuple(task_kind(task) for task in tasks),
    )


def _task_row(task: TaskChange) -> tuple[str, ...]:
    if task.unit == "share":
        before, after = numbers.percent(task.before), numbers.percent(task.after)
        difference = f"{numbers.points_interval(task.difference, task.low, task.high)} points"
    else:
        before, after = numbers.perplexity(task.before), numbers.perplexity(task.after)
        difference = f"{numbers.nats_interval(task.difference, task.low, task.high)} nats"
    return (
        task.label,
        task.metric,
        before,
        after,
        difference,
        numbers.p_value(task.p_holm),
        _visible_from(task),
        numbers.percent(task.chance),
        numbers.count(task.n),
        _WORDS[task_kind(task)],
    )


def _visible_from(task: TaskChange) -> str:
    if task.smallest_visible is None or task.n < FEWEST_ITEMS or (task.unit == "share" and task.smallest_visible >= 1):
        return numbers.MISSING
    if task.unit == "share":
        return f"{task.smallest_visible * 100:.1f} points"
    return f"{task.smallest_visible:.3f} nats"


def held_out_table(comparison: Comparison) -> Table:
    """Return the held-out loss by source, and over all conversations."""
    total = comparison.held_out_total
    return Table(
        columns=(
            "Source",
            "Conversations",
            "Trained tokens",
            "Before, nats/token",
            "After, nats/token",
            "Difference, nats/token (95 %)",
            "Bits per byte",
            "Note",
        ),
        align="lrrrrrrl",
        rows=tuple(_held_out_row(change) for change in comparison.held_out),
        marks=tuple(held_out_kind(change) for change in comparison.held_out),
        total=_held_out_row(total) if total else None,
    )


def _held_out_row(change: HeldOutChange) -> tuple[str, ...]:
    return (
        change.source,
        numbers.count(change.n_conversations),
        numbers.count(change.n_tokens),
        numbers.nats(change.before),
        numbers.nats(change.after),
        numbers.nats_interval(change.difference, change.low, change.high),
        _bits_per_byte(change),
        _WORDS[held_out_kind(change)],
    )


def _bits_per_byte(change: HeldOutChange) -> str:
    if change.before_bits_per_byte is None or change.after_bits_per_byte is None:
        return numbers.MISSING
    return f"{change.before_bits_per_byte:.3f} → {change.after_bits_per_byte:.3f}"


def stop_table(stop: StopChange) -> Table:
    """Return how many answers ended with an answer, and how many were empty, before and after."""
    kind: Kind = stop_kind(stop)
    rows = (
        (
            "Before",
            f"{stop.before.count} of {stop.before.n}",
            numbers.percent(stop.before.value, 0),
            stop_interval(stop, "before"),
            numbers.count(stop.before_empty),
            f"{stop.before_median_tokens:g}",
            "",
        ),
        (
            "After",
            f"{stop.after.count} of {stop.after.n}",
            numbers.percent(stop.after.value, 0),
            stop_interval(stop, "after"),
            numbers.count(stop.after_empty),
            f"{stop.after_median_tokens:g}",
            _WORDS[kind],
        ),
    )
    columns = ("", "Ended with an answer", "Share", "95 % interval", "Empty", "Median length, tokens", "Note")
    return Table(columns, "lrrrrrl", rows, marks=("", kind))


def base_table(check: Mapping[str, Any]) -> Table:
    """Return what the check of the base model measured; every number in the check, under its own name."""
    names = {
        "nats_per_token": "the model, nats per token of plain text",
        "unigram": "word frequencies alone, nats per token",
        "uniform": "guessing uniformly, nats per token",
        "training_loss": "end of pretraining, as the recipe states it, nats per token",
    }
    known = [(label, numbers.nats(check[key])) for key, label in names.items() if check.get(key) is not None]
    others = [(key, _plain(value)) for key, value in flatten(check) if key not in names and key != "verdict"]
    return Table(("Measured", "Value"), "lr", (*known, *others))


def provenance_table(title: str, values: Mapping[str, Any]) -> Table:
    """Return one part of the provenance as name and value; durations as people say them."""
    seconds = title == "seconds"
    rows = [(name, _duration(value) if seconds else _plain(value)) for name, value in flatten(values)]
    return Table(
        ("Stage" if seconds else "Name", "Time" if seconds else "Value"), "lr" if seconds else "ll", tuple(rows)
    )


def flatten(values: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    """Return nested mappings as (dotted name, value); entries of a list go by their name where they have one."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            flat += flatten(value, name)
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            flat += flatten(dict(_named(index, one) for index, one in enumerate(value)), name)
        else:
            flat.append((name, value))
    return flat


def _named(index: int, entry: Any) -> tuple[str, Any]:
    if isinstance(entry, Mapping) and "name" in entry:
        return str(entry["name"]), {key: value for key, value in entry.items() if key != "name"}
    return str(index), entry


def _duration(seconds: float | None) -> str:
    return numbers.MISSING if seconds is None else format_duration(seconds)


def _plain(value: Any) -> str:
    if value is None:
        return numbers.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 else f"{value:,.4f}".rstrip("0").rstrip(".")
    if isinstance(value, int):
        return f"{value}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value) or numbers.MISSING
    return str(value)
