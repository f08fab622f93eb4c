"""The pieces that the HTML page is put together from: tables, findings, conversations, plots with their legends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genesis_sft.evals.instructions import obeys
from genesis_sft.evals.record import ChatAnswer
from genesis_sft.report.content import AnswerPair
from genesis_sft.report.findings import KIND_WORDS, Finding
from genesis_sft.report.foreign_text import for_html
from genesis_sft.report.tables import Table

_SWATCHES = {
    "before": '<circle cx="10" cy="7" r="5" class="dot before"/>',
    "after": '<circle cx="10" cy="7" r="5" class="dot after"/>',
    "interval": '<line x1="1" y1="4" x2="15" y2="4" class="interval before"/>'
    '<line x1="5" y1="10" x2="19" y2="10" class="interval after"/>',
    "chance": '<line x1="10" y1="0" x2="10" y2="14" class="chance-line"/>',
    "raw": '<line x1="1" y1="7" x2="19" y2="7" class="curve raw"/>',
    "curve": '<line x1="1" y1="7" x2="19" y2="7" class="curve after"/>',
    "held-out": '<line x1="1" y1="7" x2="19" y2="7" class="curve held-out"/>'
    '<circle cx="10" cy="7" r="3" class="mark held-out"/>',
    "examples": '<rect x="1" y="2" width="18" height="10" class="bar before"/>',
    "tokens": '<rect x="1" y="2" width="18" height="10" class="bar after"/>',
}


def html_finding(finding: Finding) -> str:
    """Return an entry of the verdict's list."""
    word = KIND_WORDS[finding.kind]
    return f'<li class="{finding.kind}"><span class="kind">{word}</span><span>{prose(finding.text)}</span></li>'


def html_table(table: Table, css_class: str = "") -> str:
    """Return a table in a box of its own, in which it can be moved sideways; ``""`` where it has no rows."""
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
    # a width of its own keeps a name from being squeezed, and a long one from pushing all numbers out of sight
    first = f'<th scope="row"{_class("r" if align[0] == "r" else "")}><span>{for_html(cells[0])}</span></th>'
    middle = [_cell("td", text, side) for text, side in zip(cells[1:-1], align[1:-1], strict=True)]
    last = _cell("td", cells[-1], align[-1], mark=mark)
    return f"<tr{_class(mark)}>{first}{''.join(middle)}{last}</tr>"


def _cell(tag: str, text: str, side: str, attributes: str = "", mark: str = "") -> str:
    classes = " ".join(part for part in ("r" if side == "r" else "", mark) if part)
    return f"<{tag}{_class(classes)}{attributes}>{for_html(text)}</{tag}>"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def html_answers(pairs: Iterable[AnswerPair]) -> str:
    """Return conversations with the answers before and after side by side."""
    return "\n".join(map(_pair, pairs))


def _pair(pair: AnswerPair) -> str:
    said = "\n".join(_said(message["role"], message["content"]) for message in pair.before.messages)
    sides = _side("Before", "before", pair.before) + _side("After", "after", pair.after)
    return f'<article class="talk">\n{said}{_demands(pair.before)}\n<div class="sides">{sides}</div>\n</article>'


def _demands(answer: ChatAnswer) -> str:
    """Return what the prompt demands and a program can verify: ``most words: 30``."""
    shown = "; ".join(_demand(rule) for rule in answer.rules)
    return f'\n<p class="soft">To be verified: {for_html(shown)}</p>' if shown else ""


def _demand(rule: Mapping[str, Any]) -> str:
    values = [value for name, value in rule.items() if name != "kind"]
    words = str(rule["kind"]).replace("_", " ")
    return f"{words}: {', '.join(map(_plain, values))}" if values else words


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _said(role: str, content: str) -> str:
    css = role if role in ("system", "user", "assistant") else "user"
    return f'<p class="said {css}" dir="auto"><span class="role">{for_html(role)}</span>{for_html(content)}</p>'


def _side(title: str, css_class: str, answer: ChatAnswer) -> str:
    ended = "ended its turn" if answer.ended else '<span class="cut">did not end its turn</span>'
    obeyed = {True: ", obeyed", False: ', <span class="cut">did not obey</span>', None: ""}[obeys(answer)]
    thought = (
        fold("Reasoning", f'<p class="reasoning" dir="auto">{for_html(answer.reasoning)}</p>')
        if answer.reasoning
        else ""
    )
    said = f"· {ended}, {answer.num_tokens:,} tokens{obeyed}"
    return (
        f'<section class="side {css_class}"><h4>{title} <span>{said}</span></h4>'
        f"{thought}{_answer(answer.answer)}</section>\n"
    )


def _answer(text: str) -> str:
    return f'<p class="answer" dir="auto">{for_html(text)}</p>' if text.strip() else '<p class="soft">(no text)</p>'


def plot(svg: str, caption: str) -> str:
    """Return a plot with its legend above it."""
    return f'<figure class="plot">{caption}\n{svg}</figure>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return what the marks of a plot mean.

    Args:
        entries: (mark, what it means); the marks are the keys of ``_SWATCHES``, or ``""`` for words alone.
    """
    shown = "".join(f"<span>{_swatch(mark)}{for_html(words)}</span>" for mark, words in entries)
    return f'<figcaption class="legend">{shown}</figcaption>'


def _swatch(mark: str) -> str:
    if not mark:
        return ""
    return f'<svg class="swatch" width="20" height="14" aria-hidden="true">{_SWATCHES[mark]}</svg>'


def definitions(entries: Sequence[tuple[str, str]]) -> str:
    """Return terms, each with what it means."""
    return "<dl>" + "".join(f"<dt>{for_html(term)}</dt><dd>{for_html(text)}</dd>" for term, text in entries) + "</dl>"


def fold(summary: str, inside: str) -> str:
    """Return what is seen only after a click on its summary; in print it is left out."""
    return f'<details class="fold"><summary>{for_html(summary)}</summary>\n{inside}\n</details>' if inside else ""


def paragraph(text: str) -> str:
    """Return a paragraph; ``""`` for no text."""
    return f"<p>{prose(text)}</p>" if text else ""


def prose(text: str) -> str:
    """Keep a number and its per cent sign, a value and its error, and the ends of an interval on one line."""
    return for_html(text).replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0").replace("–", "\u2060–\u2060")
