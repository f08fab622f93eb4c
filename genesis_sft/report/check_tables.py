"""The tables of what a run's own checks measured: chat answers, instructions, plain text, groups of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from genesis_sft.evals.instructions import rates_by_kind
from genesis_sft.evals.record import ChatAnswer
from genesis_sft.report import numbers, tables
from genesis_sft.report.changes import Comparison, RateChange, TaskChange
from genesis_sft.report.tables import Table
from genesis_sft.report.verdict import rate_kind


def rates_table(rates: Sequence[RateChange]) -> Table:
    """Return how many answers each check holds of, before and after, with Wilson's intervals and the exact test."""
    return Table(
        columns=(
            "Check",
            "Better",
            "Before",
            "95 % interval",
            "After",
            "95 % interval",
            "To yes",
            "To no",
            "p (Holm)",
            "Note",
        ),
        align="llrrrrrrrl",
        rows=tuple(_rate_row(rate) for rate in rates),
        marks=tuple(rate_kind(rate) for rate in rates),
    )


def instructions_table(before: Sequence[ChatAnswer], after: Sequence[ChatAnswer]) -> Table:
    """Return how often demands of each kind were fulfilled, before and after."""
    fulfilled = {rate.kind: rate for rate in rates_by_kind(after)}
    return Table(
        columns=("Kind of demand", "Demands", "Before", "After", "95 % interval"),
        align="lrrrr",
        rows=tuple(
            (
                rate.kind.replace("_", " "),
                numbers.count(rate.n),
                numbers.count(rate.fulfilled),
                numbers.count(fulfilled[rate.kind].fulfilled),
                numbers.share_interval(fulfilled[rate.kind].low, fulfilled[rate.kind].high),
            )
            for rate in rates_by_kind(before)
        ),
    )


def groups_table(tasks: Sequence[TaskChange]) -> Table:
    """Return the groups of subjects of the benchmarks that have some."""
    rows = []
    for task in tasks:
        for group in task.groups:
            rows.append(
                (
                    f"{task.task}: {group.name.replace('_', ' ')}",
                    numbers.count(group.n),
                    numbers.percent(group.before),
                    numbers.percent(group.after),
                    numbers.points_interval(group.difference, group.low, group.high),
                )
            )
    return Table(("Group", "Items", "Before", "After", "Difference, points (95 %)"), "lrrrr", tuple(rows))


def plain_text_table(comparison: Comparison) -> Table:
    """Return the loss on passages of plain text, and over all of them."""
    table = tables.held_out_table(
        replace(comparison, held_out=comparison.plain_text, held_out_total=comparison.plain_text_total)
    )
    return replace(table, columns=("Passage", "Passages", "Tokens", *table.columns[3:]))


def total_alone(table: Table) -> Table:
    """Return a table of many rows as that of its last one, which sums them up."""
    assert table.total is not None
    return replace(table, rows=(table.total,), marks=(), total=None)


def _rate_row(rate: RateChange) -> tuple[str, ...]:
    kind = rate_kind(rate)
    return (
        rate.name,
        rate.better,
        f"{rate.before.count} of {rate.before.n}",
        numbers.share_interval(rate.before.low, rate.before.high),
        f"{rate.after.count} of {rate.after.n}",
        numbers.share_interval(rate.after.low, rate.after.high),
        numbers.count(rate.to_yes),
        numbers.count(rate.to_no),
        numbers.p_value(rate.p_holm),
        "cannot be told" if kind == "open" else kind,
    )
