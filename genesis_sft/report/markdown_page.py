"""The report as Markdown, for a pull request: the verdict and the numbers, without plots and conversations.

What is not read by everyone is folded. Lines from outside are escaped, texts of several lines stand in fences that are
longer than any run of backticks in them.
"""

from __future__ import annotations

from collections.abc import Iterable

from genesis_sft.report.check_tables import total_alone
from genesis_sft.report.content import UNTOUCHED, Content
from genesis_sft.report.findings import KIND_WORDS, Finding
from genesis_sft.report.foreign_text import for_markdown_line
from genesis_sft.report.tables import Table


def render_markdown(content: Content) -> str:
    """Return the whole report; it ends with a newline."""
    parts = [
        f"# {for_markdown_line(content.recipe_name)}: before and after",
        f"Base model: {for_markdown_line(content.base_name)}",
        f"**{for_markdown_line(content.headline)}**",
        "\n".join(map(_finding, content.findings)),
        *_benchmarks(content),
        *_losses(content),
        *_chat(content),
        *_training(content),
        *_mixture(content),
        _fold("Check of the base model", for_markdown_line(content.base_verdict), _table(content.base)),
        *_provenance(content),
        "Plots, conversations, how to read the numbers, and the recipe stand in report.html.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _finding(finding: Finding) -> str:
    return f"- **{KIND_WORDS[finding.kind]}.** {for_markdown_line(finding.text)}"


def _benchmarks(content: Content) -> Iterable[str]:
    for scores in content.surfaces:
        yield f"## {scores.heading}"
        yield f"{scores.explained} Differences in percentage points unless they say nats."
        yield _table(scores.table)
        if scores.groups.rows:
            yield _fold("Groups of subjects", _table(scores.groups))
    if content.untouched.rows:
        yield _fold("Without items that stand in the sources", UNTOUCHED, _table(content.untouched))


def _losses(content: Content) -> Iterable[str]:
    if content.plain_text.rows:
        yield "## Forgetting"
        yield "Loss on passages of plain text, nats per token; a rise means that something was forgotten."
        yield _table(total_alone(content.plain_text))
        yield _fold("Each passage", _table(content.plain_text))
    if content.held_out.rows:
        yield "## Held-out loss"
        yield "Nats per trained token; less is better."
        yield _table(content.held_out)


def _chat(content: Content) -> Iterable[str]:
    if content.stop:
        yield "## Does it end its turn?"
        yield _table(content.stop)
    if content.rates.rows:
        yield "## Checks of the chat answers"
        yield _table(content.rates)
    if content.instructions.rows:
        yield _fold("Demands that a program can verify", _table(content.instructions))


def _training(content: Content) -> Iterable[str]:
    if content.training.skipped or content.training.alarms:
        yield "## Training"
        yield for_markdown_line(content.training.skipped)
        yield "\n".join(f"- {for_markdown_line(alarm)}" for alarm in content.training.alarms)


def _mixture(content: Content) -> Iterable[str]:
    if not content.rows.rows:
        return
    checks = f"{for_markdown_line(content.rows_check)} {for_markdown_line(content.tokens_check)}"
    yield _fold("Mixture", _table(content.tokens), _table(content.rows), checks, _table(content.rejects))
    yield _fold("Where the sources come from", _table(content.sources))


def _provenance(content: Content) -> Iterable[str]:
    parts = {
        for_markdown_line(part.title.replace("_", " ").capitalize()): _table(part.table)
        for part in content.provenance
        if part.table.rows
    }
    if "Models" in parts:
        yield "## Models"
        yield parts.pop("Models")
    if parts:
        inside = (piece for title, table in parts.items() for piece in (f"**{title}**", table))
        yield _fold("Provenance: times, settings, versions, hashes of the stages", *inside)


def _fold(summary: str, *inside: str) -> str:
    shown = "\n\n".join(part for part in inside if part)
    return f"<details>\n<summary>{summary}</summary>\n\n{shown}\n\n</details>"


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    rules = ["---:" if side == "r" else "---" for side in table.align]
    lines = [_line(map(for_markdown_line, table.columns)), _line(rules)]
    lines += [_line(map(for_markdown_line, row)) for row in table.rows]
    if table.total:
        lines.append(_line(f"**{for_markdown_line(cell)}**" if cell else "" for cell in table.total))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
