"""Conversations into a table of a token store: encoded in batches, fitted to length, checked, counted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genesis_sft.console import Progress
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.recipe import TokensSection
from genesis_sft.tokens.chatml import ChatMLEncoder, Encoded
from genesis_sft.tokens.table import SPAN

_ROWS_PER_BATCH = 1000


@dataclass
class SourceCounts:
    """What became of the conversations of one source.

    Attributes:
        examples: Conversations in the store.
        tokens: Their tokens.
        trained_tokens: Their labels.
        dropped_over_length: Conversations left out: too long, or (where long ones are cut) their first exchange is.
        cut: Conversations that lost their last exchanges; they are among the examples.
        untrained: Conversations left out because nothing in them is a label.
    """

    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    dropped_over_length: int = 0
    cut: int = 0
    untrained: int = 0


def check_encoded(conversation: Conversation, encoded: Encoded, encoder: ChatMLEncoder) -> None:
    """Assert what training relies on: no control token but the template's, every trained turn ends on a trained end.

    Both would show as a model that never stops, or stops at the wrong place, hours later.
    """
    ids, messages = encoded.input_ids, conversation.messages
    where = f"source {conversation.source}, row {conversation.row}"
    expected = {encoder.im_start_id: len(messages), encoder.im_end_id: len(messages)}
    thoughts = sum(message.reasoning is not None for message in messages) if encoder.keeps_reasoning else 0
    expected |= {encoder.think_id: thoughts, encoder.think_end_id: thoughts}
    for id, count in expected.items():
        assert ids.count(id) == count, f"{where}: {ids.count(id)} of control token {id} for {count} in the template"
    if encoder.trains_end_of_turn:
        ends = [ids[stop - 1] for _, stop in encoded.trained]
        turns = sum(message.role == "assistant" for message in messages)
        assert ends == [encoder.im_end_id] * turns, f"{where}: a trained turn does not end on a trained end of turn"


class StoreWriter:
    """Writes tables batch by batch; keeps count of tokens and time.

    Args:
        section: How long a conversation may be, and what happens to longer ones.
        encoder: Gives ids and trained spans.
        schema: Schema of the tables.
        names: Names of all sources.

    Attributes:
        num_tokens: Tokens encoded so far, also of conversations that are left out.
    """

    def __init__(self, section: TokensSection, encoder: ChatMLEncoder, schema: Any, names: list[str]) -> None:
        self._section, self._encoder, self._schema, self._names = section, encoder, schema, names
        self.num_tokens = 0
        self._started = time.monotonic()

    def rate(self) -> float:
        """Return tokens per second since the start."""
        return self.num_tokens / max(time.monotonic() - self._started, 1e-9)

    def write(self, conversations: Iterator[Conversation], path: Path, bar: Progress) -> dict[str, SourceCounts]:
        """Write one table; return what became of the conversations of each source."""
        counts = {name: SourceCounts() for name in self._names}
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self._schema) as file:
            while batch := list(islice(conversations, _ROWS_PER_BATCH)):
                encoded = self._encoder.encode_many(batch)
                kept = [
                    (conversation, fitting)
                    for conversation, whole in zip(batch, encoded, strict=True)
                    if (fitting := self._fit(conversation, whole, counts[conversation.source])) is not None
                ]
                if kept:
                    file.write_batch(self._to_arrow(kept))
                self.num_tokens += sum(len(whole.input_ids) for whole in encoded)
                bar.advance(len(batch), note=f"{self.rate():,.0f} tokens/s")
        return counts

    def _fit(self, conversation: Conversation, whole: Encoded, counts: SourceCounts) -> Encoded | None:
        """Return the conversation as it enters the store, if it does; count what happened."""
        check_encoded(conversation, whole, self._encoder)
        fitting: Encoded | None = whole
        if len(whole.input_ids) > self._section.max_length:
            fitting = self._cut(conversation, whole) if self._section.over_length == "cut" else None
            if fitting is None:
                counts.dropped_over_length += 1
                return None
        assert fitting is not None
        if not fitting.trained:
            counts.untrained += 1
            return None
        counts.cut += fitting is not whole
        counts.examples += 1
        counts.tokens += len(fitting.input_ids)
        counts.trained_tokens += fitting.num_trained
        return fitting

    def _cut(self, conversation: Conversation, whole: Encoded) -> Encoded | None:
        """Return the most exchanges, from the first on, that fit; ``None`` when not even one does."""
        ends = self._encoder.message_ends(whole.input_ids)
        fitting = [
            end
            for message, end in zip(conversation.messages, ends, strict=True)
            if message.role == "assistant" and end <= self._section.max_length
        ]
        if not fitting:
            return None
        end = fitting[-1]
        return Encoded(whole.input_ids[:end], [span for span in whole.trained if span[1] <= end])

    def _to_arrow(self, kept: Sequence[tuple[Conversation, Encoded]]) -> Any:
        """Return a record batch; offsets and values are handed over as arrays, which is faster than rows."""
        id_type = self._schema.field("input_ids").type.value_type
        ids = [np.asarray(encoded.input_ids, dtype=id_type.to_pandas_dtype()) for _, encoded in kept]
        spans = np.asarray([span for _, encoded in kept for span in encoded.trained], dtype=np.int32).reshape(-1, 2)
        num_spans = [len(encoded.trained) for _, encoded in kept]
        num_tokens = [len(row) for row in ids]
        columns = [
            pa.ListArray.from_arrays(_offsets(num_tokens), pa.array(np.concatenate(ids), type=id_type)),
            pa.ListArray.from_arrays(
                _offsets(num_spans),
                pa.StructArray.from_arrays([pa.array(spans[:, 0]), pa.array(spans[:, 1])], fields=list(SPAN)),
            ),
            # one dictionary for the whole file: the file format does not allow it to change
            pa.DictionaryArray.from_arrays(
                pa.array([self._names.index(conversation.source) for conversation, _ in kept], pa.int32()),
                pa.array(self._names),
            ),
            pa.array([conversation.row for conversation, _ in kept], pa.int64()),
            pa.array(num_tokens, pa.int32()),
            pa.array([encoded.num_trained for _, encoded in kept], pa.int32()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


def _offsets(lengths: Iterable[int]) -> Any:
    return pa.array(np.cumsum([0, *lengths]), pa.int32())
