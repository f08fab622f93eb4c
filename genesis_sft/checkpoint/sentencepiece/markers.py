"""Which token names are markers of structure, such as ``<|user|>``, and which are plain text, such as a line break."""

from __future__ import annotations

_BRACKETS = frozenset("<>[]|")


def is_marker(name: str) -> bool:
    r"""Say whether a token's name marks structure, so that typed text must not yield it.

    A marker has a bracket or bar and a letter or digit: ``<|user|>``, ``<think>``, ``[INST]``. Without either, a token
    is text that a tokenizer keeps whole: ``"\n"``, ``"7"``, ``"def "``, ``"->"``.
    """
    return not _BRACKETS.isdisjoint(name) and any(character.isalnum() for character in name)
