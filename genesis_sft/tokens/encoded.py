"""What conversations become: ids, and which of them are trained; and what comes back from a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

TrainOn = Literal["assistant", "end_of_turn"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as ids.

    Attributes:
        input_ids: Token ids, length T.
        trained: ``[start, stop)`` positions in ``input_ids`` whose ids are labels, ascending, not touching each other.
            They are positions of the labels themselves: the shift by one happens where the loss is computed.
    """

    input_ids: list[int]
    trained: list[tuple[int, int]]

    @property
    def num_trained(self) -> int:
        """Number of labels."""
        return sum(stop - start for start, stop in self.trained)


@dataclass(frozen=True)
class EncodedBlock:
    """Many conversations as ids, end to end; n of them.

    Attributes:
        ids: All token ids: uint32 (tokens,).
        num_tokens: Tokens of each conversation: int64 (n,).
        spans: ``[start, stop)`` of labels, counted from the beginning of their conversation: int32 (spans, 2).
        num_spans: Spans of each conversation: int64 (n,).
    """

    ids: np.ndarray[Any, np.dtype[np.uint32]]
    num_tokens: np.ndarray[Any, np.dtype[np.int64]]
    spans: np.ndarray[Any, np.dtype[np.int32]]
    num_spans: np.ndarray[Any, np.dtype[np.int64]]

    def split(self) -> list[Encoded]:
        """Return the conversations one by one."""
        ids, spans = self.ids.tolist(), [(start, stop) for start, stop in self.spans.tolist()]
        token_stops, span_stops = self.num_tokens.cumsum().tolist(), self.num_spans.cumsum().tolist()
        return [
            Encoded(ids[first:last], spans[first_span:last_span])
            for first, last, first_span, last_span in zip(
                [0, *token_stops], token_stops, [0, *span_stops], span_stops, strict=False
            )
        ]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote in its turn.

    Attributes:
        content: The answer.
        reasoning: What stood between ``<think>`` and ``</think>``; ``None`` if these were not there.
        ended: Whether the model ended its turn.
    """

    content: str
    reasoning: str | None
    ended: bool
