"""Stored names for a reader: those that differ only in numbers become one line."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from genesis_sft.console import visible

# a component that is a number, or the number in "layer_3" - but not in "norm_1" or "w1"
_NUMBERS = re.compile(
    r"(?:^|(?<=\.)|(?<=layer)|(?<=layers)|(?<=block)|(?<=blocks)|(?<=layer_)|(?<=layers_)|(?<=block_)|(?<=blocks_))"
    r"(?:0|[1-9][0-9]{0,4})(?=\.|$)"
)
_MOST_RANGES, _LONGEST = 4, 160

Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class Folded(Generic[Value]):
    """Names that are equal but for their numbers, and all have one value.

    Attributes:
        text: ``"layers.{0..31}.attention.wq.weight"``.
        names: All of them, as stored.
        value: What they have in common.
    """

    text: str
    names: tuple[str, ...]
    value: Value


def fold(entries: Iterable[tuple[str, Value]]) -> list[Folded[Value]]:
    """Return the names with their values folded over numbers, in the order in which the first of each came."""
    groups: dict[tuple[str, Value], list[str]] = {}
    for name, value in entries:
        groups.setdefault((_NUMBERS.sub("{}", name), value), []).append(name)
    return [Folded(_text(names), tuple(names), value) for (_, value), names in groups.items()]


def pattern(names: Sequence[str]) -> str:
    """Return names that are equal but for numbers as one with ``{n}``: ``"blocks.{n}.mix.query.weight"``.

    Of several numbers those that vary become ``{n}``; where none does, the first, which is the layer's.
    """
    numbers = [_NUMBERS.findall(name) for name in names]
    varies = [len({found[position] for found in numbers}) > 1 for position in range(len(numbers[0]))]
    if varies and not any(varies):
        varies[0] = True
    texts = ["{n}" if vary else number for vary, number in zip(varies, numbers[0], strict=True)]
    between = _NUMBERS.split(names[0])
    return "".join(text + number for text, number in zip(between, [*texts, ""], strict=True))


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as people write them: ``"0..14,16..31"``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}..{last}" for first, last in runs[:_MOST_RANGES]]
    return ",".join(texts + ["…"] * (len(runs) > _MOST_RANGES))


def shown(name: str) -> str:
    """Return a name fit for one line of a terminal, whatever it holds."""
    text = visible(name).replace("\n", "␊").replace("\t", "␉").replace("\r", "␍")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Return rows of text with their columns aligned."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def _text(names: list[str]) -> str:
    numbers = [_NUMBERS.findall(name) for name in names]
    folded = []
    for position in range(len(numbers[0])):
        values = {int(found[position]) for found in numbers}
        folded.append(f"{{{ranges(values)}}}" if len(values) > 1 else str(values.pop()))
    between = _NUMBERS.split(names[0])
    return shown("".join(text + number for text, number in zip(between, [*folded, ""], strict=True)))
