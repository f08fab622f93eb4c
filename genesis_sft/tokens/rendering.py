"""Messages to ids and trained spans, thousands at a time: what a turn consists of, and how its pieces are laid out.

A turn is a few pieces: ids that are always the same (a header, ``<think>``, ``<|im_end|>``), and texts. Which pieces
depends on little (role, whether it has reasoning, whether it is trained), so each of these *patterns* is made once; a
block of conversations is then an array of pattern numbers and a list of texts, and no further loop sees its tokens::

    patterns     user                           assistant
    pieces       header  text  im_end  newline  header  text  im_end  newline
    trained                                             yes   yes
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from genesis_sft.conversations.conversation import Message
from genesis_sft.tokens.engine import FlatIds, interleave

if TYPE_CHECKING:
    from genesis_sft.tokens.headers import Headers

Reasoning = Literal["keep", "strip", "empty"]
Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

EMPTY_THOUGHT = "\n\n"
"""What stands between ``<think>`` and ``</think>`` where nothing was thought."""


class Piece(NamedTuple):
    """Part of a turn.

    Attributes:
        trained: Whether its ids are labels.
        ids: Its ids; ``None`` where it is the turn's next text.
        after_control: Whether the text stands right after a control token.
        header: The header that the text begins with, in ids, none of which is a label.
    """

    trained: bool
    ids: tuple[int, ...] | None = None
    after_control: bool = False
    header: tuple[int, ...] = ()


class _Pattern(NamedTuple):
    role: str
    thinks: bool
    trained: bool


@dataclass(frozen=True)
class Rendered:
    """Conversations as patterns and texts; n conversations of m messages in all.

    Attributes:
        texts: What is to be encoded, in order.
        after_control: Whether each text stands right after a control token: (texts,).
        pieces: Number of each piece in the renderer's table: (pieces,).
        num_pieces: Pieces of each message: (m,).
        num_messages: Messages of each conversation: (n,).
        num_thoughts: Reasoning parts of each conversation: (n,).
        num_trained_turns: Turns of each conversation of which something is a label: (n,).
    """

    texts: list[str]
    after_control: Flags
    pieces: Ints
    num_pieces: Ints
    num_messages: Ints
    num_thoughts: Ints
    num_trained_turns: Ints


class LaidOut(NamedTuple):
    """Conversations as ids and spans; see `chatml.EncodedBlock`."""

    ids: np.ndarray[Any, np.dtype[np.uint32]]
    num_tokens: Ints
    spans: np.ndarray[Any, np.dtype[np.int32]]
    num_spans: Ints


class Renderer:
    """Knows the pieces of every kind of turn.

    Args:
        headers: How messages begin.
        control_ids: Ids of ``<|im_start|>``, ``<|im_end|>``, ``<think>``, ``</think>``.
        newline: Ids of the line break behind ``<|im_end|>``.
        empty_thought: Ids of `EMPTY_THOUGHT` behind ``<think>``.
        reasoning: What becomes of reasoning.
        trains_end_of_turn: Whether the control tokens that a model writes are labels.
    """

    def __init__(
        self,
        headers: Headers,
        control_ids: tuple[int, int, int, int],
        newline: Sequence[int],
        empty_thought: Sequence[int],
        reasoning: Reasoning,
        trains_end_of_turn: bool,
    ) -> None:
        self._headers, self._control = headers, control_ids
        self._newline, self._empty_thought = tuple(newline), tuple(empty_thought)
        self._reasoning, self._trains_end_of_turn = reasoning, trains_end_of_turn
        patterns = [
            _Pattern(role, thinks, trained)
            for role in headers.ids
            for thinks in (False, True)
            for trained in (False, True)
        ]
        pieces = [self._pieces(*pattern) for pattern in patterns]
        self._number = {pattern: number for number, pattern in enumerate(patterns)}
        self._thinks = np.array([pattern.thinks for pattern in patterns])
        self._is_trained = np.array([pattern.trained for pattern in patterns])
        self._num_pieces = np.array([len(own) for own in pieces])
        self._first_piece = self._num_pieces.cumsum() - self._num_pieces
        table = list(itertools.chain.from_iterable(pieces))
        self._piece_is_text = np.array([piece.ids is None for piece in table])
        self._piece_is_trained = np.array([piece.trained for piece in table])
        self._piece_is_after_control = np.array([piece.after_control for piece in table])
        self._piece_header = np.array([len(piece.header) for piece in table])
        self._headers_of_pieces = {number: piece.header for number, piece in enumerate(table) if piece.header}
        self._fixed_length = np.array([len(piece.ids or ()) for piece in table])
        self._fixed_first = self._fixed_length.cumsum() - self._fixed_length
        self._fixed_ids = np.array(list(itertools.chain.from_iterable(piece.ids or () for piece in table)), np.uint32)

    def render(self, conversations: Iterable[Sequence[Message]]) -> Rendered:
        """Return what conversations consist of; texts as they are."""
        texts: list[str] = []
        numbers: list[int] = []
        num_messages: list[int] = []
        one_piece, number_of = self._headers.in_one_piece, self._number
        keep, empty = self._reasoning == "keep", self._reasoning == "empty"
        for messages in conversations:
            num_messages.append(len(messages))
            for message in messages:
                role, content = message.role, message.content
                by_model = role == "assistant"
                trained = by_model if message.train is None else message.train
                thinks = by_model and (empty or (keep and message.reasoning is not None))
                numbers.append(number_of[role, thinks, trained])  # type: ignore[index]  # equal to the named tuple
                if thinks:
                    if keep:
                        texts.append(f"\n{message.reasoning}\n")
                    content = f"\n\n{content}"
                elif one_piece:
                    content = f"{role}\n{content}"
                texts.append(content)
        patterns = np.array(numbers, np.int64)
        num_pieces = self._num_pieces[patterns]
        pieces = _ranges(self._first_piece[patterns], num_pieces)
        sizes = np.array(num_messages, np.int64)
        return Rendered(
            texts=texts,
            after_control=self._piece_is_after_control[pieces[self._piece_is_text[pieces]]],
            pieces=pieces,
            num_pieces=num_pieces,
            num_messages=sizes,
            num_thoughts=_sums(self._thinks[patterns].astype(np.int64), sizes),
            num_trained_turns=_sums(self._is_trained[patterns].astype(np.int64), sizes),
        )

    def lay_out(self, rendered: Rendered, encoded: FlatIds) -> LaidOut:
        """Return the ids and spans of what was rendered, its texts encoded."""
        pieces = rendered.pieces
        is_text = self._piece_is_text[pieces]
        fixed = pieces[~is_text]
        fixed_lengths = self._fixed_length[fixed]
        fixed_ids = self._fixed_ids[_ranges(self._fixed_first[fixed], fixed_lengths)]
        ids, lengths = interleave(is_text, (fixed_ids, fixed_lengths), encoded)
        stops = lengths.cumsum()
        num_tokens = _sums(_sums(lengths, rendered.num_pieces), rendered.num_messages)
        starts = stops - lengths + self._piece_header[pieces]
        trained = self._piece_is_trained[pieces] & (starts < stops)
        first, last = starts[trained], stops[trained]
        # neighbours that touch are one span; those of two turns never do, as headers are not trained
        begins = np.ones(len(first), bool)
        begins[1:] = first[1:] != last[:-1]
        ends = np.append(begins[1:], True)[: len(begins)]
        spans = np.stack([first[begins], last[ends]], axis=1)
        conversation_starts = num_tokens.cumsum() - num_tokens
        owner = np.searchsorted(conversation_starts, spans[:, 0], side="right") - 1
        num_spans = np.bincount(owner, minlength=len(num_tokens))
        return LaidOut(ids, num_tokens, (spans - conversation_starts[owner, None]).astype(np.int32), num_spans)

    def find_broken_header(self, rendered: Rendered, encoded: FlatIds) -> tuple[int, list[int], list[int]] | None:
        """Return number, ids and expected header of the first text that does not begin with its header's ids."""
        if not self._headers_of_pieces:
            return None
        ids, lengths = encoded
        starts = lengths.cumsum() - lengths
        numbers = rendered.pieces[self._piece_is_text[rendered.pieces]]
        for piece, header in self._headers_of_pieces.items():
            own = np.flatnonzero(numbers == piece)
            whole = lengths[own] >= len(header)
            equal = np.zeros(len(own), bool)
            equal[whole] = (ids[starts[own[whole], None] + np.arange(len(header))] == header).all(axis=1)
            if not equal.all():
                text = int(own[equal.argmin()])
                return text, ids[starts[text] : starts[text] + lengths[text]].tolist(), list(header)
        return None

    def _pieces(self, role: str, thinks: bool, trained: bool) -> list[Piece]:
        im_start, im_end, think, think_end = ((id,) for id in self._control)
        ends_turn = trained and self._trains_end_of_turn
        header = tuple(self._headers.ids[role])
        if thinks:
            empty = self._reasoning == "empty"
            turn = [
                Piece(False, im_start + header),
                Piece(ends_turn, think),
                Piece(trained, self._empty_thought) if empty else Piece(trained, after_control=True),
                Piece(ends_turn, think_end),
                Piece(trained, after_control=True),
            ]
        elif self._headers.in_one_piece:
            turn = [Piece(False, im_start), Piece(trained, after_control=True, header=header)]
        else:
            turn = [Piece(False, im_start + header), Piece(trained)]
        return [*turn, Piece(ends_turn, im_end), Piece(False, self._newline)]


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return the numbers from each start on, as many as its length: starts 5, 0 and lengths 2, 1 give 5, 6, 0."""
    before = lengths.cumsum() - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def _sums(values: Ints, sizes: Ints) -> Ints:
    """Return the sum of each group of neighbours; no group is empty."""
    sums: Ints = np.add.reduceat(values, sizes.cumsum() - sizes)
    return sums
