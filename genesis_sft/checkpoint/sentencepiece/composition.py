r"""Which characters a charsmap joins into one, and a pattern of the places where Unicode's NFKC would join too much.

A charsmap has a rule for each letter with its accents written out in full and in Unicode's order (``e`` and U+0301
become ``é``), and none for other orders, or for a letter that has one accent already (``ê`` and U+0301 stay two).
NFKC sorts and joins all of them. So a break is put between two characters that NFKC might join, unless a rule does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import product
from typing import Any
from unicodedata import combining, decomposition, normalize

from tokenizers import Regex

_HANGUL_VOWELS, _HANGUL_FINALS = range(0x1161, 0x1176), range(0x11A8, 0x11C3)
_LONGEST = 4  # characters in the longest sequence that is one character in Unicode, Greek with three accents


def break_pattern(processor: Any, wanted: dict[str, str]) -> Regex:
    """Return a pattern of the empty places where a break is needed; never the beginning of a text.

    Args:
        processor: sentencepiece's, with ``normalize`` that only replaces characters.
        wanted: What each character by itself becomes.
    """
    joining = _joins_to_the_left(wanted)
    allowed = "|".join(_allowed_places(_joined_sequences(processor, wanted)))
    return Regex(rf"(?!\A)(?={class_of(joining)})" + (f"(?!{allowed})" if allowed else ""))


def class_of(characters: Iterable[str]) -> str:
    r"""Return a pattern for one of these characters, in Oniguruma's syntax: ``[\x{41}-\x{43}\x{61}]``."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "[" + "".join(_code(first) + (f"-{_code(last)}" if last > first else "") for first, last in runs) + "]"


def _code(code: int) -> str:
    return f"\\x{{{code:X}}}"


def _joins_to_the_left(characters: Iterable[str]) -> set[str]:
    """Return the characters that a normal form may join with the one before, or sort in front of it."""
    second = {parts[1] for parts in map(_parts, characters) if len(parts) == 2}
    second |= {chr(code) for codes in (_HANGUL_VOWELS, _HANGUL_FINALS) for code in codes}

    def joins(character: str) -> bool:
        first = normalize("NFKD", character)[0]
        return first in second or combining(first) > 0

    return {character for character in characters if joins(character)}


def _parts(character: str) -> list[str]:
    """Return what a character is canonically made of, one step deep."""
    stated = decomposition(character)
    return [] if stated.startswith("<") else [chr(int(code, 16)) for code in stated.split()]


def _joined_sequences(processor: Any, wanted: dict[str, str]) -> list[str]:
    """Return the sequences that become something else than their characters one by one."""
    looks: dict[str, list[str]] = defaultdict(list)  # ``n`` also looks like this: ``ⁿ``, ``ｎ``
    for character in wanted:
        looks[normalize("NFKD", character)].append(character)
    forms = {form for character in wanted for form in (normalize("NFD", character), "".join(_parts(character)))}
    sequences = sorted(
        {
            "".join(sequence)
            for form in forms
            if 1 < len(form) <= _LONGEST and wanted.keys() >= set(form)
            for sequence in product(*({character, *looks[character]} for character in form))
        }
    )
    found = processor.normalize(sequences)
    return [
        sequence
        for sequence, text in zip(sequences, found, strict=True)
        if text != "".join(wanted[character] for character in sequence)
    ]


def _allowed_places(sequences: list[str]) -> list[str]:
    """Return patterns of the places inside of these sequences, those alike folded into one."""
    firsts: dict[tuple[str, str], set[str]] = defaultdict(set)  # by what stands between, and what comes next
    for sequence in sequences:
        for at in range(1, len(sequence)):
            firsts[sequence[1:at], sequence[at]].add(sequence[0])
    nexts: dict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
    for (between, following), first in firsts.items():
        nexts[between, frozenset(first)].add(following)
    betweens: dict[tuple[frozenset[str], frozenset[str]], set[str]] = defaultdict(set)
    for (between, first_set), next_set in nexts.items():
        betweens[first_set, frozenset(next_set)].add(between)
    places = []
    for (first_set, following_set), between_set in betweens.items():
        single = {between for between in between_set if len(between) == 1}
        between_patterns = ([class_of(single)] if single else []) + [
            "".join(map(class_of, between)) for between in sorted(between_set - single)
        ]
        places += [f"(?<={class_of(first_set)}{between})(?={class_of(following_set)})" for between in between_patterns]
    return places
