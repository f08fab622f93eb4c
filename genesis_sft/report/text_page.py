"""The comparison as plain text for a terminal: the verdict, then the tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

from genesis_sft.console import visible
from genesis_sft.report import check_tables, tables
from genesis_sft.report.changes import Comparison
from genesis_sft.report.findings import KIND_WORDS, headline
from genesis_sft.report.tables import Table
from genesis_sft.report.verdict import judge


def render_comparison(comparison: Comparison) -> str:
    """Return the verdict and the tables."""
    findings = judge(comparison)
    parts = [headline(findings), "\n".join(f"{KIND_WORDS[one.kind]}: {one.text}" for one in findings)]
    for surface in ("raw", "chat"):
        changes = [task for task in comparison.tasks if task.surface == surface]
        parts.append(render_table(tables.task_table(changes)))
        parts.append(render_table(check_tables.groups_table(changes)))
    parts.append(render_table(tables.held_out_table(comparison)))
    parts.append(render_table(check_tables.plain_text_table(comparison)))
    if comparison.stop:
        parts.append(render_table(tables.stop_table(comparison.stop)))
    parts.append(render_table(check_tables.rates_table(comparison.rates)))
    return visible("\n\n".join(part for part in parts if part))


def render_table(table: Table) -> str:
    """Return a table with aligned columns; nothing where it has no rows."""
    if not table.rows:
        return ""
    lines = [table.columns, *table.rows, *([table.total] if table.total else [])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_render_line(line, widths, table.align) for line in lines)


def _render_line(cells: Sequence[str], widths: Sequence[int], align: str) -> str:
    padded = (
        cell.rjust(width) if side == "r" else cell.ljust(width)
        for cell, width, side in zip(cells, widths, align, strict=True)
    )
    return "  ".join(padded).rstrip()
