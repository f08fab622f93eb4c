"""Does a text repeat itself as a language model does that is caught in a loop?

Two rules on its words, in lower case; a sign that is neither letter, digit nor space is a word by itself, and so is a
character of a script written without spaces; a word of more than 32 letters is read letter by letter:

- *in a row*: a passage of 1 to 64 words stands at least three times in a row, 24 words in all. Where there is no
  letter in the passage, as in a ruled line or a column of zeros, 120 in all.
- *over and over*: of the runs of eight words in a text of 40 words or more, more than 45 % were there before; runs
  without a letter do not count.

A refrain, a list whose entries begin alike, a table and a piece of code stay below both: of the runs of the shipped
conversations 5 % at most were there before, of a song with a chorus after each of three verses 33 to 44 %. A loop that
never writes the same eight words twice is not found.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

LONGEST_PASSAGE = 64
FEWEST_TIMES = 3
FEWEST_WORDS, FEWEST_SIGNS = 24, 120
RUN = 8
LONGEST_WORD = 32
FEWEST_WORDS_TO_COUNT = 40
MOST_SEEN_BEFORE = 0.45

_LIST_NUMBER = re.compile(r"^[ \t]*+\d{1,4}[.)](?=\s)", re.MULTILINE)
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s]|_")

Array = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def repeats_itself(text: str) -> bool:
    """Return whether one of the rules on top of this module holds; in time linear in the length of the text.

    ``repeats_itself("I do not know. " * 8)`` is true: five words (one is the full stop) eight times.
    """
    words = _words(text)
    codes: dict[str, int] = {}
    ids = np.array([codes.setdefault(word, len(codes)) for word in words], dtype=np.int64)  # (words,)
    has_letter = np.array([any(map(str.isalpha, word)) for word in codes], dtype=bool)  # (different words,)
    return _repeats_in_a_row(ids, has_letter) or _repeats_over_and_over(ids, has_letter)


def _words(text: str) -> list[str]:
    words: list[str] = []
    for word in _WORD.findall(_LIST_NUMBER.sub("", text).lower()):
        words += word if len(word) > LONGEST_WORD else [word]
    return words


def _repeats_in_a_row(ids: Array, has_letter: Flags) -> bool:
    letters = _letters_before(ids, has_letter)
    for period in range(1, min(LONGEST_PASSAGE, len(ids) // FEWEST_TIMES) + 1):
        same = ids[period:] == ids[:-period]  # (words - period,)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
        starts, lengths = edges[::2], edges[1::2] - edges[::2] + period
        with_letter = letters[starts + period] > letters[starts]
        fewest = np.where(with_letter, FEWEST_WORDS, FEWEST_SIGNS)
        if (lengths >= np.maximum(FEWEST_TIMES * period, fewest)).any():
            return True
    return False


def _repeats_over_and_over(ids: Array, has_letter: Flags) -> bool:
    if len(ids) < FEWEST_WORDS_TO_COUNT:
        return False
    runs, length = ids, 1
    while length < RUN:  # numbers pairs of runs: two of four words make one of eight
        runs = runs[:-length] * (int(runs.max()) + 1) + runs[length:]
        runs = np.unique(runs, return_inverse=True)[1].reshape(-1)
        length *= 2
    letters = _letters_before(ids, has_letter)
    runs = runs[letters[RUN:] > letters[:-RUN]]
    seen_before = len(runs) - len(np.unique(runs))
    return len(runs) > FEWEST_WORDS_TO_COUNT - RUN and seen_before > MOST_SEEN_BEFORE * len(runs)


def _letters_before(ids: Array, has_letter: Flags) -> Array:
    """Return how many words with a letter stand before each place: (words + 1,)."""
    return np.concatenate(([0], np.cumsum(has_letter[ids])))
