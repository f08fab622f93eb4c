"""Text from models, data and recipes, made harmless: it is shown as it is and never becomes markup.

Each output has one door: :func:`for_html`, :func:`for_markdown_line` and :func:`for_markdown_block`.
"""

from __future__ import annotations

import html
import re
import unicodedata

_DIRECTIONS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)}
_MARKUP = re.compile(r"[\\`*\[\]<>|~&#!$@{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)


def visible(text: str) -> str:
    r"""Return the text with control characters shown instead of obeyed.

    Terminal codes (``\x1b`` becomes ``␛``), characters that turn the direction of what follows (``⟨U+202E⟩``) and
    unpaired surrogates (``�``, they cannot be written as UTF-8). Newlines and tabs stay.
    """
    return "".join(_visible(character) for character in text.replace("\r\n", "\n"))


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


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if 0xD800 <= code <= 0xDFFF:
        return "\N{REPLACEMENT CHARACTER}"
    if character in _DIRECTIONS or unicodedata.category(character) == "Cc" or code in (0x2028, 0x2029):
        return f"⟨U+{code:04X}⟩"
    return character
