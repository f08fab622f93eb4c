"""Texts on which two tokenizers that are not the same give themselves away.

Much of it is what a SentencePiece conversion is proven on (`proof_texts`); to that come every kind of character, the
pieces of the vocabulary itself, the names of control tokens, and what a GPT-2 pattern treats in its own way.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

from genesis_sft.checkpoint.sentencepiece.proof_texts import CODE, PROSE, SHORT, proof_texts
from genesis_sft.tokens.long_texts import LONGEST, most_characters

_SEED = 21
_NUM_JOINED = 1500
_FORMS = ("{0}a {0}", "1{0}'s\n{0} ")
_MANY = 1000  # a script with more letters than this is sampled
_EVERY = 29
_CHARACTERS_PER_TEXT = 8
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "’s", "s'", "''s")
_WHITE_SPACE = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2002\u2009\u2028\u2029\u202f\u205f\u3000"
_RUNS = (
    *" \t\n\r\xa0-=_.#*~|a0x/é你😀\u3000",
    "ab",
    "-=",
    "ha",
    "\n ",
    "  \n",
    "- ",
    "a ",
    "a\n",
    "é ",
    "你好",
    "e\u0301",
    "🇩🇪",
    "0,",
)
_ALPHABETS = (
    " \n\t",
    "abcdefghijklmnopqrstuvwxyz",
    "ACGT",
    "0123456789abcdef",
    "!#$%&*+-/=<>",
    "абвгдежз",
    "你好吗北京历史文化",
)
_LENGTHS = (3_000, LONGEST, 9_000, 30_000, 100_000)
_CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]")


def hard_texts(pieces: Sequence[str]) -> Iterator[str]:
    """Yield some seventeen thousand texts, the likeliest to differ first; always the same ones for the same pieces.

    Args:
        pieces: The texts of the vocabulary's pieces.
    """
    chance = random.Random(_SEED)
    yield from _in_one_sentence()
    yield from proof_texts(pieces)
    own = list(pieces) or list(SHORT)
    yield from (" ".join(own[start : start + 40]) for start in range(0, len(own), 40))
    odd = [*_WHITE_SPACE, *_CONTROL, *_CONTRACTIONS, *"aA1.,'-_é你\u0301😀▁Ġ"]
    for number in range(_NUM_JOINED):
        pools: list[Sequence[str]] = [own] if number % 3 == 0 else [odd] if number % 3 == 1 else [own, odd]
        yield "".join(chance.choice(chance.choice(pools)) for _ in range(chance.randint(2, 30)))
    yield from _long(own, chance)
    yield from _of_every_character()


def _in_one_sentence() -> Iterator[str]:
    for name in (*_CONTROL, *_CONTRACTIONS):
        yield from (name, f" {name}", f"a{name}b", f"{name}{name}", f"\n{name}\n", f"{name[:-1]} {name[-1]}")
    for space in _WHITE_SPACE:
        for contraction in _CONTRACTIONS:
            yield from (f"{space}{contraction}", f"a{space}{contraction} b", f"{space}{space}{contraction}x")
        for other in _WHITE_SPACE:
            yield from (f"a{space}{other}b", f"{space}{other}1", f"!{space * 3}{other}", f"{space}{other * 2}'x'")


def _long(own: Sequence[str], chance: random.Random) -> Iterator[str]:
    """Yield runs as long as an engine is given whole, and texts that it is given in parts."""
    for run in _RUNS:
        text = run * (most_characters(run) // len(run))
        yield from (text, f"a {text[1:-2]}")
    for alphabet in _ALPHABETS:
        yield "".join(chance.choices(alphabet, k=most_characters(alphabet)))
    indented = [line for code in CODE for line in code.replace("\n", "\n        ").splitlines(keepends=True)]
    words = [word for text in PROSE for word in text.split() if word.isascii()]
    for length in _LENGTHS:
        for kind, joint in ((words, " "), ((*SHORT, *own), " \n"), (indented, "    ")):
            yield joint.join(chance.choices(kind, k=length))[:length]


def _of_every_character() -> Iterator[str]:
    characters = _characters()
    for form in _FORMS:
        for start in range(0, len(characters), _CHARACTERS_PER_TEXT):
            yield "".join(form.format(character) for character in characters[start : start + _CHARACTERS_PER_TEXT])


@cache
def _characters() -> list[str]:
    """Return every character that has a name, a sample of those whose names are numbered or that are very many."""
    by_kind: dict[str, list[str]] = {}
    for code in (*range(0x20000), *range(0x20000, 0x110000, 1009)):
        if not 0xD800 <= code < 0xE000:
            character = chr(code)
            script = unicodedata.name(character, "").split(" ")[0]
            by_kind.setdefault(f"{unicodedata.category(character)} {script}", []).append(character)
    return [
        character
        for characters in by_kind.values()
        for character in characters[:: 1 if len(characters) < _MANY else _EVERY]
    ]
