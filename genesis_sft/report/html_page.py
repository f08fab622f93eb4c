"""The report as one HTML page that needs nothing else: no script, no font, no picture from anywhere.

All text that comes from outside passes through ``for_html``; the only markup that is inserted as such is written here
or drawn by ``plots``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from string import Template

from genesis_sft.evals.record import ChatAnswer
from genesis_sft.report.content import HOW_TO_READ, UNTOUCHED, AnswerPair, Content
from genesis_sft.report.foreign_text import for_html
from genesis_sft.report.tables import Table
from genesis_sft.report.verdict import KIND_WORDS, Finding


def render_html(content: Content) -> str:
    """Return the whole page."""
    template = Template(files("genesis_sft.report").joinpath("template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=for_html(f"{content.recipe_name}: before and after"),
        recipe_name=for_html(content.recipe_name),
        base_name=for_html(content.base_name),
        body="\n".join(_sections(content)),
    )


def _sections(content: Content) -> list[str]:
    """Return the sections in reading order; a section without content is left out."""
    parts = [_verdict(content)]
    if content.tasks.rows:
        parts += ["<h2>Benchmarks</h2>", _table(content.tasks), _plot(content.tasks_plot)]
        parts.append('<p class="soft">Differences in percentage points unless they say nats. Dotted line: chance.</p>')
    if content.untouched.rows:
        parts += ["<h3>Without items that stand in the sources</h3>", _paragraph(UNTOUCHED), _table(content.untouched)]
    if content.held_out.rows:
        parts += ["<h2>Held-out loss</h2>", "<p>Nats per trained token; less is better.</p>", _table(content.held_out)]
    if content.stop:
        parts += ["<h2>Does it end its turn?</h2>", _table(content.stop)]
    if content.samples:
        parts += ["<h2>Sample conversations</h2>", *map(_pair, content.samples)]
    if content.answers:
        inside = "\n".join(map(_pair, content.answers))
        parts.append(_fold(f"All {len(content.answers)} answers", inside))
    parts += _mixture(content)
    if content.loss_plot or content.skipped:
        parts += ["<h2>Training loss</h2>", _plot(content.loss_plot), _paragraph(content.skipped)]
    parts += ["<h2>Check of the base model</h2>", _paragraph(content.base_verdict), _table(content.base, "narrow")]
    parts += ["<h2>How to read this</h2>", _definitions(HOW_TO_READ), *_provenance(content)]
    return parts


def _verdict(content: Content) -> str:
    findings = "\n".join(map(_finding, content.findings))
    return f'<p class="headline">{_prose(content.headline)}</p>\n<ul class="findings">\n{findings}\n</ul>'


def _finding(finding: Finding) -> str:
    word = KIND_WORDS[finding.kind]
    return f'<li class="{finding.kind}"><span class="kind">{word}</span><span>{_prose(finding.text)}</span></li>'


def _table(table: Table, css_class: str = "") -> str:
    if not table.rows:
        return ""
    head = "".join(
        _cell("th", text, side, ' scope="col"') for text, side in zip(table.columns, table.align, strict=True)
    )
    marks = table.marks or ("",) * len(table.rows)
    body = "\n".join(_row(row, table.align, mark) for row, mark in zip(table.rows, marks, strict=True))
    foot = f"\n<tfoot>{_row(table.total, table.align)}</tfoot>" if table.total else ""
    opening = f'<table class="{css_class}">' if css_class else "<table>"
    return (
        f'<div class="scroll" tabindex="0">{opening}\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>{foot}\n</table></div>"
    )


def _row(cells: Sequence[str], align: str, mark: str = "") -> str:
    first = _cell("th", cells[0], align[0], ' scope="row"')
    middle = [_cell("td", text, side) for text, side in zip(cells[1:-1], align[1:-1], strict=True)]
    last = _cell("td", cells[-1], align[-1], mark=mark)
    return f"<tr{_class(mark)}>{first}{''.join(middle)}{last}</tr>"


def _cell(tag: str, text: str, side: str, attributes: str = "", mark: str = "") -> str:
    classes = " ".join(part for part in ("r" if side == "r" else "", mark) if part)
    return f"<{tag}{_class(classes)}{attributes}>{for_html(text)}</{tag}>"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _pair(pair: AnswerPair) -> str:
    said = "\n".join(_said(message["role"], message["content"]) for message in pair.before.messages)
    sides = _side("Before", "before", pair.before) + _side("After", "after", pair.after)
    return f'<article class="talk">\n{said}\n<div class="sides">{sides}</div>\n</article>'


def _said(role: str, content: str) -> str:
    css = role if role in ("system", "user", "assistant") else "user"
    return f'<p class="said {css}" dir="auto"><span class="role">{for_html(role)}</span>{for_html(content)}</p>'


def _side(title: str, css_class: str, answer: ChatAnswer) -> str:
    ended = "ended its turn" if answer.ended else '<span class="cut">did not end its turn</span>'
    thought = (
        _fold("Reasoning", f'<p class="reasoning" dir="auto">{for_html(answer.reasoning)}</p>')
        if answer.reasoning
        else ""
    )
    return (
        f'<section class="side {css_class}"><h4>{title} <span>· {ended}, {answer.num_tokens:,} tokens</span></h4>'
        f"{thought}{_answer(answer.answer)}</section>\n"
    )


def _answer(text: str) -> str:
    return f'<p class="answer" dir="auto">{for_html(text)}</p>' if text.strip() else '<p class="soft">(no text)</p>'


def _mixture(content: Content) -> list[str]:
    if not content.rows.rows:
        return []
    return [
        "<h2>Mixture</h2>",
        _table(content.rows),
        _paragraph(content.rows_check),
        _fold("Why rows were rejected", _table(content.rejects)) if content.rejects.rows else "",
        _fold("Where the sources come from", _table(content.sources, "names")),
        "<h3>As trained on</h3>",
        _table(content.tokens),
        _paragraph(content.tokens_check),
        _plot(content.mixture_plot),
    ]


def _provenance(content: Content) -> list[str]:
    parts = ["<h2>Provenance</h2>"] if content.provenance else []
    for part in content.provenance:
        parts += [f"<h3>{for_html(part.title.replace('_', ' ').capitalize())}</h3>", _table(part.table, "names")]
        parts += [_fold(name, f"<pre>{for_html(text)}</pre>") for name, text in part.texts]
    return parts


def _definitions(entries: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{for_html(term)}</dt><dd>{for_html(text)}</dd>" for term, text in entries) + "</dl>"


def _plot(svg: str) -> str:
    return f'<figure class="plot">{svg}</figure>' if svg else ""


def _fold(summary: str, inside: str) -> str:
    return f'<details class="fold"><summary>{for_html(summary)}</summary>\n{inside}\n</details>'


def _paragraph(text: str) -> str:
    return f"<p>{_prose(text)}</p>" if text else ""


def _prose(text: str) -> str:
    """Keep a number and its per cent sign, or a value and its error, on one line."""
    return for_html(text).replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")
