"""Writes the report: ``report.html`` to look at, ``report.md`` for a pull request, ``report.json`` to compute with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genesis_sft.evals.instructions import rates_by_kind
from genesis_sft.report.content import Content, build_content
from genesis_sft.report.html_page import render_html
from genesis_sft.report.markdown_page import render_markdown
from genesis_sft.report.numbers import is_number
from genesis_sft.report.run_results import RunResults
from genesis_sft.run_dir import without_nan, write_text

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"


def write_report(out: Path, results: RunResults) -> None:
    """Write the report's files into a folder that exists, each of them whole or not at all.

    Everything is rendered before the first file is written.
    """
    for name, text in render_report(results).items():
        write_text(out / name, text)


def render_report(results: RunResults) -> dict[str, str]:
    """Return the name and text of each file of the report. Equal input gives equal texts."""
    content = build_content(results)
    values = json.dumps(without_nan(_values(results, content)), indent=2, ensure_ascii=False, allow_nan=False)
    return {JSON: values + "\n", MARKDOWN: render_markdown(content), HTML: render_html(content)}


def _values(results: RunResults, content: Content) -> dict[str, Any]:
    return {
        "recipe": results.recipe_name,
        "base": results.base_name,
        "headline": content.headline,
        "findings": [asdict(finding) for finding in content.findings],
        "comparison": asdict(results.comparison),
        "untouched": [asdict(change) for change in results.untouched],
        "flips": [asdict(one) for one in results.flips],
        "instructions": {
            side: [asdict(rate) for rate in rates_by_kind(record.chat)]
            for side, record in (("before", results.before), ("after", results.after))
        },
        "ledger": results.ledger,
        "training_loss": [_loss_row(row) for row in results.metrics],
        "held_out_during_training": [event for event in results.events if event.get("kind") == "held_out"],
        "alarms": [event for event in results.events if event.get("kind") == "alarm"],
        "base_check": results.check,
        "provenance": results.provenance,
    }


def _loss_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return step and loss; JSON has no NaN, a loss that is no number is null."""
    skipped = {"skipped": True} if row.get("skipped") else {}
    return {"step": row["step"], "loss": row["loss"] if is_number(row["loss"]) else None, **skipped}
