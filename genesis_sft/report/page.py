"""Writes the report: ``report.html`` to look at, ``report.md`` to keep, ``report.json`` to compute with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genesis_sft.evals.record import EvalRecord
from genesis_sft.report.clean_subset import CleanChange
from genesis_sft.report.compare import Comparison
from genesis_sft.report.content import build_content
from genesis_sft.report.html_page import render_html
from genesis_sft.report.markdown_page import render_markdown
from genesis_sft.report.numbers import is_number
from genesis_sft.run_dir import write_json, write_text


def write_report(
    out: Path,
    *,
    recipe_name: str,
    base_name: str,
    comparison: Comparison,
    before: EvalRecord,
    after: EvalRecord,
    ledger: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    check: Mapping[str, Any],
    provenance: Mapping[str, Any],
    untouched: Sequence[CleanChange] = (),
) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html`` into a folder, each of them whole or not at all.

    Everything is rendered before the first file is written. Equal input gives equal files.

    Args:
        out: The folder; it exists.
        recipe_name: Name of the run.
        base_name: What the base model is, as the recipe names it.
        comparison: Of ``before`` and ``after``.
        before: The record of the base model; its chat answers are shown.
        after: The record of the tuned model, of the same evaluation.
        ledger: What became of the rows of each source, and the examples and tokens of each; ``ledger.json``.
        metrics: Rows with ``step``, ``loss`` and, where a step was skipped, ``skipped``; in order.
        check: What the check of the base model found; ``verdict``, ``nats_per_token``, ``uniform``, ``unigram``, ...
        provenance: Plain JSON values; each mapping in it becomes a table under its key. Under ``seconds`` (stage to
            duration) numbers are shown as durations.
        untouched: Benchmarks of which the sources hold items, on all items and on the others.
    """
    content = build_content(
        recipe_name=recipe_name,
        base_name=base_name,
        comparison=comparison,
        before=before,
        after=after,
        ledger=ledger,
        metrics=metrics,
        check=check,
        provenance=provenance,
        untouched=untouched,
    )
    numbers = {
        "recipe": recipe_name,
        "base": base_name,
        "headline": content.headline,
        "findings": [asdict(finding) for finding in content.findings],
        "comparison": asdict(comparison),
        "untouched": [asdict(change) for change in untouched],
        "ledger": ledger,
        "training_loss": [_loss_row(row) for row in metrics],
        "base_check": check,
        "provenance": provenance,
    }
    markdown, page = render_markdown(content), render_html(content)
    write_json(out / "report.json", numbers)
    write_text(out / "report.md", markdown)
    write_text(out / "report.html", page)


def _loss_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return step and loss; JSON has no NaN, a loss that is no number is null."""
    skipped = {"skipped": True} if row.get("skipped") else {}
    return {"step": row["step"], "loss": row["loss"] if is_number(row["loss"]) else None, **skipped}
