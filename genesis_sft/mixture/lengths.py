"""Conversations made to fit: over-long ones are dropped, lose their last exchanges, or become several examples.

Messages are found in the ids alone: each ends with ``<|im_end|>`` and a line break, and no text can hold that token.
Only over-long conversations are looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genesis_sft.mixture.select import Fate, Ints
from genesis_sft.recipe import TokensSection

if TYPE_CHECKING:
    from genesis_sft.tokens.sources.store import SourceStore

Spans = list[tuple[int, int]]


class Piece(NamedTuple):
    """Part of a conversation's ids: ``ids[:system_stop] + ids[start:stop]``."""

    system_stop: int
    start: int
    stop: int

    @property
    def num_tokens(self) -> int:
        """Length in tokens, the system message included."""
        return self.system_stop + self.stop - self.start


class Markers(NamedTuple):
    """How the end of a message looks: the id of ``<|im_end|>``, and the number of tokens of the line break behind."""

    im_end_id: int
    newline_length: int


class Turns(NamedTuple):
    """Where a conversation's exchanges lie: each from the stop of the one before, the first from ``system_stop``."""

    system_stop: int
    stops: list[int]


@dataclass(frozen=True)
class Examples:
    """What a source's conversations are as examples; E of them, by position, pieces of one conversation in order.

    Attributes:
        positions, system_stop, start, stop, num_tokens, num_trained: int64 (E,).
        lost: Position to number of exchanges that stand in no example, of conversations of which others do.
    """

    positions: Ints
    system_stop: Ints
    start: Ints
    stop: Ints
    num_tokens: Ints
    num_trained: Ints
    lost: dict[int, int]


def fit_source(
    store: SourceStore, fates: np.ndarray[Any, np.dtype[np.int8]], tokens: TokensSection, markers: Markers
) -> Examples:
    """Return the examples of a source's usable conversations; the fates of those that give none are entered.

    Args:
        store: The source.
        fates: int8 (conversations,): a ``Fate`` each; ``OVER_LENGTH`` and ``UNTRAINED`` are written into it.
        tokens: Longest example, and what becomes of longer conversations.
        markers: How the end of a message looks.
    """
    usable = fates == Fate.USABLE
    is_long = usable & (store.num_tokens > tokens.max_length)
    fits = usable & ~is_long
    fates[fits & (store.num_trained == 0)] = Fate.UNTRAINED
    whole = np.flatnonzero(fits & (store.num_trained > 0))
    rows = [np.stack([whole, 0 * whole, 0 * whole, *(column[whole] for column in _whole_columns(store))], axis=1)]
    lost: dict[int, int] = {}
    if tokens.over_length == "drop":
        fates[is_long] = Fate.OVER_LENGTH
        is_long = np.zeros_like(is_long)
    for position in np.flatnonzero(is_long).tolist():
        turns = find_turns(store.ids(position), markers)
        pieces = fit(turns, tokens.over_length, tokens.max_length)
        spans = store.spans(position)
        trained = {piece: count for piece in pieces if (count := num_trained(clip(spans, piece)))}
        if trained:
            rows.append(np.array([(position, *piece, piece.num_tokens, count) for piece, count in trained.items()]))
            if missing := len(turns.stops) - sum(num_exchanges(turns, piece) for piece in trained):
                lost[position] = missing
        else:
            fates[position] = Fate.UNTRAINED if pieces else Fate.OVER_LENGTH
    table = np.concatenate(rows).astype(np.int64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    positions, system_stop, start, stop, num_tokens, num_labels = table.T
    return Examples(positions, system_stop, start, stop, num_tokens, num_labels, lost)


def find_turns(ids: Ints, markers: Markers) -> Turns:
    """Return where the system message and the exchanges of a conversation end.

    A system message is there when the number of messages is odd: user and assistant speak in turn, the assistant last.
    """
    ends = np.flatnonzero(ids == markers.im_end_id) + 1 + markers.newline_length
    assert len(ends) >= 2, f"expected ends of messages, found {len(ends)}"
    assert int(ends[-1]) == len(ids), f"expected the last message to end at {len(ids)}, found {int(ends[-1])}"
    has_system = len(ends) % 2
    return Turns(int(ends[0]) if has_system else 0, ends[has_system + 1 :: 2].tolist())


def fit(turns: Turns, rule: str, max_length: int) -> list[Piece]:
    """Return the pieces of an over-long conversation that fit, in order; none where not one exchange does.

    Args:
        turns: Where its exchanges lie.
        rule: ``"cut_at_turn"`` or ``"split"``, as in a recipe.
        max_length: Longest piece, in tokens.

    A system message up to 10 and exchanges up to 40, 60 and 100, at most 60 tokens:
    ``cut_at_turn`` gives ``[(0, 0, 60)]``, ``split`` gives ``[(0, 0, 60), (10, 60, 100)]``.
    """
    if rule == "cut_at_turn":
        return [Piece(0, 0, stop) for stop in turns.stops if stop <= max_length][-1:]
    pieces: list[Piece] = []
    start = turns.system_stop
    for before, stop in zip([turns.system_stop, *turns.stops], turns.stops, strict=False):
        if turns.system_stop + stop - start > max_length:
            start = before  # the exchange begins a piece of its own
        if turns.system_stop + stop - start > max_length:
            continue  # and does not fit alone either; the next one will begin anew
        if pieces and pieces[-1].start == start:
            pieces.pop()
        pieces.append(Piece(turns.system_stop, start, stop))
    return [_from_the_first(piece) for piece in pieces]


def clip(spans: Spans, piece: Piece) -> Spans:
    """Return the part of spans that lies in a piece, by positions in the piece's own ids.

    A system message that is put in front of a later piece is context there: its labels stand in the first piece.

    Example:
        >>> clip([(4, 8), (14, 18)], Piece(system_stop=2, start=10, stop=20))
        [(6, 10)]
    """
    clipped = [(max(start, piece.start), min(stop, piece.stop)) for start, stop in spans]
    shift = piece.start - piece.system_stop
    return [(start - shift, stop - shift) for start, stop in clipped if start < stop]


def num_trained(spans: Spans) -> int:
    """Return the number of labels in spans."""
    return sum(stop - start for start, stop in spans)


def num_exchanges(turns: Turns, piece: Piece) -> int:
    """Return how many exchanges of a conversation a piece holds; it begins and ends between exchanges."""
    edges = [turns.system_stop, *turns.stops]
    first = turns.system_stop if piece.start == 0 else piece.start
    return edges.index(piece.stop) - edges.index(first)


def _from_the_first(piece: Piece) -> Piece:
    """Write a piece that begins with the first exchange as the beginning of the conversation that it is."""
    return Piece(0, 0, piece.stop) if piece.start == piece.system_stop else piece


def _whole_columns(store: SourceStore) -> tuple[Ints, Ints, Ints]:
    """Return stop, number of tokens and of labels of whole conversations."""
    return store.num_tokens, store.num_tokens, store.num_trained
