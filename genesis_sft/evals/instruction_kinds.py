r"""Demands on an answer that a program can verify: one function a kind, true or false for every text.

The idea is that of IFEval (Zhou et al. 2023, arXiv:2311.07911): an instruction such as "in at most thirty words" needs
no judge. The kinds, their definitions and the prompts are this project's own. What all kinds share:

- A *word* is what stands between white space or dashes (``—``, ``–``) and holds a letter or a digit; ``well-known``
  and ``don't`` are one word. Writing without spaces, such as Chinese, has no words in this sense.
- The marker of a list entry (``-``, ``*``, ``+``, ``•``, ``1.``, ``1)``) is no word and no sentence.
- White space around an answer does not count.
- Letters are compared in Unicode's composed form (NFC), and without regard to case where the docstring says so.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, validate_call

Count = Annotated[int, Field(ge=1, le=1000, strict=True)]
Phrase = Annotated[str, Field(min_length=1, max_length=100)]
Phrases = Annotated[list[Phrase], Field(min_length=1, max_length=20)]
Script = Literal["LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "DEVANAGARI", "HANGUL", "CJK"]

_LIST_MARKER = re.compile(r"^[ \t]*+(?:[-*+•]|\d{1,3}[.)])[ \t]++", re.MULTILINE)
_BULLET = re.compile(r"[ \t]*[-*+•][ \t]+\S")
_WORD_GAP = re.compile(r"[\s—–]+")
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_]*+(?=\s|$)|[。！？]")
_ABBREVIATIONS = frozenset(["mr", "mrs", "ms", "dr", "st", "prof", "no", "vs", "etc", "e.g", "i.e"])
_QUOTES = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"))
_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\r?\n(.*)\n```", re.DOTALL)


def most_words(text: str, count: Count) -> bool:
    """Has at most so many words."""
    return len(_words(text)) <= count


def fewest_words(text: str, count: Count) -> bool:
    """Has at least so many words."""
    return len(_words(text)) >= count


def exact_words(text: str, count: Count) -> bool:
    """Has just so many words."""
    return len(_words(text)) == count


def exact_sentences(text: str, count: Count) -> bool:
    """Has just so many sentences.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` before white space (not after common abbreviations or a single
    capital letter, and not before a lower-case letter unless there are only such), at a blank line, and at the end.
    """
    lower_goes_on = any(letter.isupper() for letter in text)
    paragraphs = _paragraphs(_LIST_MARKER.sub("", text))
    return sum(_count_sentences(paragraph, lower_goes_on) for paragraph in paragraphs) == count


def exact_paragraphs(text: str, count: Count) -> bool:
    """Has just so many blocks of text with blank lines between them."""
    return len(_paragraphs(text)) == count


def exact_lines(text: str, count: Count) -> bool:
    """Has just so many lines that are not blank; only a line feed or a carriage return ends one."""
    return len(_lines(text)) == count


def exact_bullets(text: str, count: Count) -> bool:
    """Consists of just so many bullet points, each on a line of its own, and nothing else."""
    lines = _lines(text)
    return len(lines) == count and all(_BULLET.match(line) for line in lines)


def numbered_list(text: str, count: Count) -> bool:
    """Consists of lines numbered from 1 to just this number, as ``1.`` or ``1)``, and nothing else."""
    lines = _lines(text)
    numbers = [re.match(r"[ \t]*(\d{1,4})[.)][ \t]+\S", line) for line in lines]
    return [int(found[1]) if found else 0 for found in numbers] == list(range(1, count + 1))


def comma_separated(text: str, count: Count) -> bool:
    """Is one line of just so many entries with commas between them; a full stop may end it."""
    entries = text.strip().removesuffix(".").split(",")
    return len(_lines(text)) == 1 and len(entries) == count and all(_words(entry) for entry in entries)


def lower_case(text: str) -> bool:
    """Has letters, and no capital one among them."""
    return _has_letter(text) and not any(letter.isupper() or letter.istitle() for letter in text)


def upper_case(text: str) -> bool:
    """Has capital letters, and no small ones."""
    return any(letter.isupper() for letter in text) and not any(letter.islower() for letter in text)


def includes(text: str, phrases: Phrases) -> bool:
    """Holds each word or phrase as a whole, in any case: ``cat`` is not in ``concatenate``, nor in ``cats``."""
    return all(_occurrences(text, phrase) for phrase in phrases)


def forbids(text: str, phrases: Phrases) -> bool:
    """Holds none of the words or phrases as a whole, in any case."""
    return not any(_occurrences(text, phrase) for phrase in phrases)


def exactly_times(text: str, phrase: Phrase, count: Count) -> bool:
    """Holds the word or phrase as a whole just so many times, in any case."""
    return _occurrences(text, phrase) == count


def forbids_characters(text: str, characters: Phrase) -> bool:
    """Holds none of these characters, in any case."""
    return not set(_folded(text)) & set(_folded(characters))


def starts_with(text: str, phrase: Phrase) -> bool:
    """Begins with just these characters, and no letter or digit right behind them where they end with one."""
    body = _composed(text).strip()
    rest = body.removeprefix(_composed(phrase))
    return len(rest) < len(body) and not (phrase[-1].isalnum() and rest[:1].isalnum())


def ends_with(text: str, phrase: Phrase) -> bool:
    """Ends with just these characters, and no letter or digit right before them where they begin with one."""
    body = _composed(text).strip()
    rest = body.removesuffix(_composed(phrase))
    return len(rest) < len(body) and not (phrase[0].isalnum() and rest[-1:].isalnum())


def quoted(text: str) -> bool:
    """Stands in one pair of double quotation marks, with none inside: ``"..."``, ``“...”``, ``„...“``, ``«...»``."""
    body = text.strip()
    return any(
        len(body) > 2 and body[0] == opening and body[-1] == closing and not {opening, closing} & set(body[1:-1])
        for opening, closing in _QUOTES
    )


def one_of(text: str, options: Phrases) -> bool:
    """Is one of these and nothing else, in any case; a full stop may follow."""
    return _folded(text).strip().removesuffix(".") in {_folded(option) for option in options}


def json_object(text: str, keys: Phrases) -> bool:
    """Is a JSON object with just these keys, each once, in any order; a Markdown fence may stand around it."""
    body = text.strip()
    fenced = _FENCE.fullmatch(body)
    try:
        pairs = json.loads(fenced[1] if fenced else body, object_pairs_hook=_Pairs, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(pairs, _Pairs) and sorted(key for key, _ in pairs) == sorted(keys)


def script(text: str, name: Script) -> bool:
    """Has letters, all of them of this script by their Unicode names."""
    return _has_letter(text) and all(
        unicodedata.name(letter, "").startswith(name) for letter in _composed(text) if letter.isalpha()
    )


_FUNCTIONS: tuple[Callable[..., bool], ...] = (
    most_words,
    fewest_words,
    exact_words,
    exact_sentences,
    exact_paragraphs,
    exact_lines,
    exact_bullets,
    numbered_list,
    comma_separated,
    lower_case,
    upper_case,
    includes,
    forbids,
    exactly_times,
    forbids_characters,
    starts_with,
    ends_with,
    quoted,
    one_of,
    json_object,
    script,
)
KINDS: dict[str, Callable[..., bool]] = {function.__name__: validate_call(function) for function in _FUNCTIONS}
"""Kind to function of the text and what the kind demands; one that is given something else raises ValidationError."""


class _Pairs(list[tuple[str, Any]]):
    """What stands in a JSON object, keys that stand twice included."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _words(text: str) -> list[str]:
    pieces = _WORD_GAP.split(_LIST_MARKER.sub("", text))
    return [piece for piece in pieces if any(letter.isalnum() for letter in piece)]


def _lines(text: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]", text) if line.strip()]


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n[^\S\n]*\n", text.replace("\r\n", "\n")) if part.strip()]


def _count_sentences(paragraph: str, lower_goes_on: bool) -> int:
    count, start = 0, 0
    for end in _SENTENCE_END.finditer(paragraph):
        following = paragraph[end.end() : end.end() + 100].lstrip()[:1]
        before = paragraph[max(start, end.start() - 10) : end.start()]
        if (lower_goes_on and following.islower()) or _is_abbreviation(before, end[0]):
            continue
        count += any(letter.isalnum() for letter in paragraph[start : end.start()])
        start = end.end()
    return count + any(letter.isalnum() for letter in paragraph[start:])


def _is_abbreviation(before: str, mark: str) -> bool:
    word = (before.split() or [""])[-1].lstrip("(\"'“‘")
    return mark == "." and (word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I"))


def _occurrences(text: str, phrase: str) -> int:
    """Count a phrase as a whole; white space in it fits any white space."""
    inner = r"\s+".join(re.escape(part) for part in _folded(phrase).split())
    return len(re.findall(rf"(?<!\w){inner}(?!\w)", _folded(text)))


def _has_letter(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return _composed(_composed(text).casefold())
