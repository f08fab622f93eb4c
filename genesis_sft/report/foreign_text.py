"""Text from models, data and recipes, made harmless: it is shown as it is and never becomes markup.

Each output has one door: :func:`for_html`, :func:`for_markdown_line` and :func:`for_markdown_block`.
"""

from __future__ import annotations

import html
import re

from genesis_sft.console import visible

_MARKUP = re.compile(r"[\\`*\[\]<>|~&#!$@{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)


def for_html(text: str) -> str:
    """Return the text as HTML character data; also safe inside a quoted attribute."""
    return html.escape(visible(text), quote=True)


def for_markdown_line(text: str) -> str:
    """Return the text for one line or table cell of Markdown: white space joined, everything with a meaning escaped."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(visible(text).split())).replace(r"\<", "&lt;").replace(r"\>", "&gt;")


def for_markdown_block(text: str) -> str:
    """Return the text as a fenced block whose fence is longer than any run of backticks in it."""
    shown = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
