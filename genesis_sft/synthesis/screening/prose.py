"""The parts of a message that a person wrote as running text: without code and quotations."""

from __future__ import annotations

import re

_FENCES = ("```", "~~~")
_INLINE_CODE = re.compile(r"`[^`\n]{1,300}`")
_QUOTED = re.compile(r"\"[^\"\n]{1,300}\"|“[^“”\n]{1,300}”|„[^„“”\n]{1,300}[“”]|«[^«»\n]{1,300}»|»[^«»\n]{1,300}«")
# in scripts without spaces a character counts as a word, as it does for near duplicates
_WITHOUT_SPACES = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def without_code(text: str) -> str:
    r"""Return the text without fenced blocks and inline code; lines stay lines.

    Example:
        >>> without_code("Run `ls`:\n```\nUser: me\n```\nDone.")
        'Run  :\nDone.'
    """
    if "`" not in text and "~~~" not in text:
        return text
    kept, fence = [], ""
    for line in text.split("\n"):
        start = line.lstrip()[:3]
        if fence:
            fence = "" if start == fence else fence
        elif start in _FENCES:
            fence = start
        else:
            kept.append(line)
    return _INLINE_CODE.sub(" ", "\n".join(kept))


def has_open_fence(text: str) -> bool:
    """Return whether a fenced block of code begins that does not end."""
    fence = ""
    for line in text.split("\n") if "```" in text or "~~~" in text else ():
        start = line.lstrip()[:3]
        if fence:
            fence = "" if start == fence else fence
        elif start in _FENCES:
            fence = start
    return fence != ""


def own_words(text: str) -> str:
    """Return the text without code, without what stands in quotation marks, and without quoted lines (``> ...``)."""
    lines = without_code(text).split("\n")
    return _QUOTED.sub(" ", "\n".join(line for line in lines if not line.lstrip().startswith(">")))


def folded(text: str) -> str:
    """Return the text on one line, in lower case, with straight apostrophes: what phrases are searched in."""
    return " ".join(text.replace("’", "'").lower().split())


def word_list(text: str) -> list[str]:
    """Return the words in lower case: runs of letters and digits, apostrophes inside them included."""
    return _WORD.findall(text.lower())


def num_words(text: str) -> int:
    """Return how many words a text has, by white space; every character of Chinese, Japanese, Thai and the like."""
    if text.isascii():
        return len(text.split())
    return len(_WITHOUT_SPACES.sub(" ", text).split()) + len(_WITHOUT_SPACES.findall(text))
