"""The report as Markdown, for a repository or a terminal: the same content as the page, without the plots.

Lines from outside are escaped, answers stand in fences that are longer than any run of backticks in them.
"""

from __future__ import annotations

from collections.abc import Iterable

from genesis_sft.evals.record import ChatAnswer
from genesis_sft.report.content import HOW_TO_READ, UNTOUCHED, AnswerPair, Content
from genesis_sft.report.foreign_text import for_markdown_block, for_markdown_line
from genesis_sft.report.tables import Table
from genesis_sft.report.verdict import KIND_WORDS, Finding


def render_markdown(content: Content) -> str:
    """Return the whole report; it ends with a newline."""
    parts = [
        f"# {for_markdown_line(content.recipe_name)}: before and after",
        f"Base model: {for_markdown_line(content.base_name)}",
        f"**{for_markdown_line(content.headline)}**",
        "\n".join(map(_finding, content.findings)),
        *_measurements(content),
        *_conversations(content),
        *_mixture(content),
        *(("## Training loss", for_markdown_line(content.skipped)) if content.skipped else ()),
        "## Check of the base model",
        for_markdown_line(content.base_verdict),
        _table(content.base),
        "## How to read this",
        *(f"**{for_markdown_line(term)}.** {for_markdown_line(text)}" for term, text in HOW_TO_READ),
        *_provenance(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _finding(finding: Finding) -> str:
    return f"- **{KIND_WORDS[finding.kind]}.** {for_markdown_line(finding.text)}"


def _measurements(content: Content) -> list[str]:
    parts: list[str] = []
    if content.tasks.rows:
        parts += ["## Benchmarks", "Differences in percentage points unless they say nats.", _table(content.tasks)]
    if content.untouched.rows:
        parts += ["### Without items that stand in the sources", UNTOUCHED, _table(content.untouched)]
    if content.held_out.rows:
        parts += ["## Held-out loss", "Nats per trained token; less is better.", _table(content.held_out)]
    if content.stop:
        parts += ["## Does it end its turn?", _table(content.stop)]
    return parts


def _conversations(content: Content) -> list[str]:
    parts: list[str] = []
    if content.samples:
        parts += ["## Sample conversations", *map(_pair, content.samples)]
    if content.answers:
        parts.append(_fold(f"All {len(content.answers)} answers", "\n\n".join(map(_pair, content.answers))))
    return parts


def _pair(pair: AnswerPair) -> str:
    said = [
        f"**{for_markdown_line(message['role'])}**\n\n{for_markdown_block(message['content'])}"
        for message in pair.before.messages
    ]
    title = f"### {for_markdown_line(pair.before.id)}"
    return "\n\n".join([title, *said, _side("Before", pair.before), _side("After", pair.after)])


def _side(title: str, answer: ChatAnswer) -> str:
    ended = "ended its turn" if answer.ended else "did not end its turn"
    parts = [f"**{title}** ({ended}, {answer.num_tokens:,} tokens)"]
    if answer.reasoning:
        parts.append(_fold("Reasoning", for_markdown_block(answer.reasoning)))
    return "\n\n".join([*parts, for_markdown_block(answer.answer) if answer.answer.strip() else "(no text)"])


def _mixture(content: Content) -> list[str]:
    if not content.rows.rows:
        return []
    parts = ["## Mixture", _table(content.rows), for_markdown_line(content.rows_check)]
    if content.rejects.rows:
        parts += ["Why rows were rejected:", _table(content.rejects)]
    parts += ["Where the sources come from:", _table(content.sources)]
    return [*parts, "As trained on:", _table(content.tokens), for_markdown_line(content.tokens_check)]


def _provenance(content: Content) -> list[str]:
    parts = ["## Provenance"] if content.provenance else []
    for part in content.provenance:
        parts += [f"### {for_markdown_line(part.title.replace('_', ' ').capitalize())}", _table(part.table)]
        parts += [f"{for_markdown_line(name)}:\n\n{for_markdown_block(text)}" for name, text in part.texts]
    return parts


def _fold(summary: str, inside: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{inside}\n\n</details>"


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
