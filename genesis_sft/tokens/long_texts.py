r"""Long texts in parts that are encoded apart: tokie gives wrong ids for texts of ten thousand bytes and more.

tokie 0.1.4 cuts such a text at spaces, or anywhere where there are none, into as many parts as the machine has
processors, and encodes each as if it were a text: inside runs of spaces, inside ``----``, inside a character of several
bytes. The ids then depend on the machine. So it is never given a text of that length. Texts are cut here, at places
where no token of the reference ever lies on both sides (`find_cuts`), and each part is encoded on its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models

# bytes; tokie cuts from 10,000 on
LONGEST = 8_000
_BYTES_PER_CHARACTER = 4
_PROBES = (
    "a{0}b", "a.{0}{0}b", "1{0} 2{0}\n3", "x{0}\tx", "it{0}'s", "\U0001f980{0}\U0001f980{0}", "你{0}你", "é{0}\xa0é",
    "){0}(", "_{0}{0}{0}_", "ab{0}ab{0}ab", "a{0}-", "\u0301{0}\u0301", "▁{0}▁", "a{0}\r\n",
)  # fmt: skip


def most_characters(text: str) -> int:
    """Return how many characters of this text are sure to have no more than `LONGEST` bytes."""
    return LONGEST if text.isascii() else LONGEST // _BYTES_PER_CHARACTER


def is_long(text: str) -> bool:
    """Say whether a text may have more than `LONGEST` bytes."""
    return len(text) > most_characters(text)


def find_cuts(tokenizer: Tokenizer, pieces: Sequence[str]) -> str:
    r"""Return the characters before which a text may be cut, where they follow something that is no white space.

    Of a space and a line break, those that no token holds behind other characters. Byte pair encoding never merges
    across such a place, so what is left and right of it is encoded as if it stood alone. That the tokenizer puts
    nothing in front of a text, and trims nothing, is tried out.

    Args:
        tokenizer: Encodes without special tokens.
        pieces: The texts of the vocabulary's pieces, with plain spaces: ``["a", " a", "\n"]``.

    Returns:
        ``" \n"``, ``" "``, ``"\n"`` or ``""``.
    """
    if not isinstance(tokenizer.model, models.BPE):  # others add up scores over the whole text
        return ""
    whole = "\0".join(pieces)
    return "".join(
        character
        for character in " \n"
        if not re.search(rf"[^\s\0]{character}", whole)
        and all(_cuts_well(tokenizer, probe.format(character), character) for probe in _PROBES)
    )


def cut(text: str, cuts: str) -> list[str]:
    r"""Return the parts of a long text, none longer than `LONGEST` bytes if there are enough places to cut it.

    Args:
        text: Any text.
        cuts: What `find_cuts` returned.

    Example:
        ``cut("word " * 2000, " ")`` -> ``["word word ... word", " word word ... word "]``
    """
    if not cuts:
        return [text]
    most = most_characters(text)
    within = re.compile(rf".{{0,{most - 1}}}\S(?=[{cuts}])", re.DOTALL)
    beyond = re.compile(rf"\S(?=[{cuts}])")
    parts, start = [], 0
    while len(text) - start > most:
        found = within.match(text, start) or beyond.search(text, start + most)
        if not found:
            break
        parts.append(text[start : found.end()])
        start = found.end()
    return [*parts, text[start:]]


def cut_long(texts: Sequence[str], cuts: str) -> tuple[Sequence[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the texts with long ones in parts, and where each text's parts begin: int64 (texts,)."""
    long = [place for place, text in enumerate(texts) if is_long(text)] if cuts else []
    if not long:
        return texts, np.arange(len(texts))
    counts = np.ones(len(texts), np.int64)
    parts: list[str] = []
    behind = 0
    for place in long:
        found = cut(texts[place], cuts)
        parts += [*texts[behind:place], *found]
        counts[place], behind = len(found), place + 1
    parts += texts[behind:]
    return parts, counts.cumsum() - counts


def _cuts_well(tokenizer: Tokenizer, text: str, character: str) -> bool:
    place = text.index(character)
    parts = [_ids(tokenizer, part) for part in (text[:place], text[place:])]
    return _ids(tokenizer, text) == parts[0] + parts[1]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
