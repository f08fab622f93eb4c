"""Requests as a forest of tokens, cut into forward passes: what several of them begin with stands there once.

Four answers to a question, as rows of tokens that a model is to read (a letter is a token)::

    q u e s t a a        one tree:   q u e s t ─┬─ a a
    q u e s t a b                               │   └─ b
    q u e s t c                                 └─ c

Rows in sorted order give the tree without building one: a row adds the tokens after what it has in common with the row
before it, and the tokens come out in depth-first order. A forest too large for one pass is cut between rows, and what
both sides share is read twice; unless it is long: then it is read by itself first, and kept for all that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

KEEP_FROM = 64
"""Tokens of a common beginning from which on it is worth a pass of its own: fewer are cheaper to read again."""

Row = tuple[int, ...]
"""Token ids of one request, as the model reads them."""


@dataclass(frozen=True)
class Pass:
    """Tokens for one forward pass, in depth-first order: parents before children, subtrees in one piece.

    Attributes:
        header: Tokens before all of them that were read in earlier passes, and kept; maybe none.
        tokens: (N,) int64 ids.
        depths: (N,) int64 positions, counted from the beginning of the requests: the first of them is ``len(header)``.
        ends: (N,) int64; the subtree of token i is ``[i, ends[i])``.
        rows: Indices of the requests that have tokens in here.
        places: For each of ``rows``, where its tokens are, from depth ``len(header)`` on.
        is_header: Whether the tokens are kept as (a further part of) a header for the passes that follow.
        is_last: Whether no later pass has this one's header: it need not be kept any longer.
    """

    header: Row
    tokens: NDArray[np.int64]
    depths: NDArray[np.int64]
    ends: NDArray[np.int64]
    rows: tuple[int, ...]
    places: tuple[NDArray[np.int64], ...]
    is_header: bool = False
    is_last: bool = True

    def __len__(self) -> int:
        return len(self.tokens)


def cut_into_passes(rows: Sequence[Row], max_tokens: int) -> list[Pass]:
    """Return the passes that read all rows; every position of a row is in exactly one of them.

    A pass with a header comes after those that read it. Headers are nested: only beginnings of the latest one are still
    needed, and not all of them.

    Args:
        rows: At least one token each; equal ones share everything.
        max_tokens: Tokens of a pass, its header not counted. A row that is longer by itself is one pass.

    Example:
        ``(5, 6, 7), (5, 6, 8), (9,)`` with room for four tokens are two passes, ``5 6 7 8`` and ``9``; the places of
        the second row are ``0 1 3``.
    """
    order = sorted(range(len(rows)), key=lambda index: rows[index])
    passes = _Forest([rows[index] for index in order], order, max_tokens).passes(0, len(rows), 0)
    return with_last_uses([one for one in passes if len(one)])  # all of a row may be in headers


def num_tokens(rows: Sequence[Row]) -> int:
    """Return the tokens of the forest: what one pass of unlimited size would read."""
    return sum(map(len, rows)) - int(_in_common(sorted(rows)).sum())


class _Forest:
    """Sorted rows, and what each has in common with the one before it.

    Args:
        rows: In sorted order.
        names: What each is called by the caller.
        max_tokens: See `cut_into_passes`.
    """

    def __init__(self, rows: Sequence[Row], names: Sequence[int], max_tokens: int) -> None:
        self._rows, self._names, self._max_tokens = rows, names, max_tokens
        self._common = _in_common(rows)

    def passes(self, start: int, stop: int, header: int) -> Iterator[Pass]:
        """Yield the passes of rows ``[start, stop)``, which share a header of so many tokens, read before."""
        waiting = [(start, stop, header)]
        while waiting:
            start, stop, header = waiting.pop()
            if start == stop:
                continue
            family = self._large_family(start, stop, header)
            end, shared = family or (self._fill(start, stop, header), header)
            waiting.append((end, stop, header))
            if family is None:
                yield self._pass(start, end, header)
            else:
                yield from self._header_passes(start, end, header, shared)
                waiting.append((start, end, shared))

    def _large_family(self, start: int, stop: int, header: int) -> tuple[int, int] | None:
        """Find rows from ``start`` on that share much and are too many for a pass: where they end, what they share."""
        end, shared, total = start + 1, len(self._rows[start]), len(self._rows[start]) - header
        while end < stop and self._common[end] - header >= KEEP_FROM:
            shared = min(shared, int(self._common[end]))
            total += len(self._rows[end]) - int(self._common[end])
            end += 1
        return (end, shared) if end - start > 1 and total > self._max_tokens else None

    def _fill(self, start: int, stop: int, header: int) -> int:
        """Return where the pass that begins at row ``start`` ends: it is full, or rows follow that get their own."""
        total, end = len(self._rows[start]) - header, start + 1
        while end < stop:
            common = max(header, int(self._common[end]))
            total += len(self._rows[end]) - common
            if total > self._max_tokens:
                break
            if common - header < KEEP_FROM and self._large_family(end, stop, header) is not None:
                break
            end += 1
        return end

    def _header_passes(self, start: int, stop: int, header: int, length: int) -> Iterator[Pass]:
        row, names = self._rows[start], tuple(self._names[start:stop])
        for first in range(header, length, self._max_tokens):
            tokens = np.array(row[first : min(first + self._max_tokens, length)], dtype=np.int64)
            chain = np.arange(len(tokens))
            ends = np.full(len(tokens), len(tokens))
            yield Pass(row[:first], tokens, first + chain, ends, names, (chain,) * len(names), is_header=True)

    def _pass(self, start: int, stop: int, header: int) -> Pass:
        tokens: list[int] = []
        depths: list[int] = []
        path = np.empty(0, dtype=np.int64)
        places = []
        for index in range(start, stop):
            row, shared = self._rows[index], 0 if index == start else max(0, int(self._common[index]) - header)
            fresh = np.arange(len(tokens), len(tokens) + len(row) - header - shared)
            path = np.concatenate([path[:shared], fresh])
            places.append(path)
            tokens += row[header + shared :]
            depths += range(header + shared, len(row))
        return Pass(
            self._rows[start][:header],
            np.array(tokens, dtype=np.int64),
            np.array(depths, dtype=np.int64),
            _ends(depths),
            tuple(self._names[start:stop]),
            tuple(places),
        )


def with_last_uses(passes: Sequence[Pass]) -> list[Pass]:
    """Return the passes, each of them knowing whether it is the last with its header."""
    last_use: dict[int, int] = {}  # of the header that a pass completes, by the number of that pass
    open_: list[tuple[int, int]] = []  # length of a header, and the pass that completes it
    for number, one in enumerate(passes):
        while open_ and open_[-1][0] > len(one.header):
            open_.pop()
        if one.header:
            last_use[open_[-1][1]] = number
        if one.is_header:
            open_.append((len(one.header) + len(one), number))
    lasts = set(last_use.values())
    return [replace(one, is_last=number in lasts) for number, one in enumerate(passes)]


def _in_common(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Return how many tokens each row begins with that the row before it begins with too; 0 for the first."""
    found = np.zeros(len(rows), dtype=np.int64)
    before = np.empty(0, dtype=np.int64)
    for index, row in enumerate(rows):
        this = np.array(row, dtype=np.int64)
        most = min(len(before), len(this))
        other = np.flatnonzero(before[:most] != this[:most])
        found[index] = other[0] if len(other) else most
        before = this
    return found


def _ends(depths: Sequence[int]) -> NDArray[np.int64]:
    """Return where the subtree of each token ends: at the next token that is not deeper."""
    ends = np.full(len(depths), len(depths), dtype=np.int64)
    open_: list[int] = []
    for index, depth in enumerate(depths):
        while open_ and depths[open_[-1]] >= depth:
            ends[open_.pop()] = index
        open_.append(index)
    return ends
