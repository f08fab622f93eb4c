"""Tables of tokenised conversations: Arrow IPC files, mapped into memory, that pyarrow and `datasets` read as well.

One row a conversation:

- ``input_ids`` list<uint16>, or list<uint32> for vocabularies over 65,536
- ``trained`` list<struct<start: int32, stop: int32>>: ``[start, stop)`` positions of labels in ``input_ids``
- ``source`` dictionary<string>, ``row`` int64: name of the source, row in its file from 0
- ``num_tokens``, ``num_trained`` int32

The schema's metadata names template, tokenizer and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SPAN = pa.struct([pa.field("start", pa.int32(), nullable=False), pa.field("stop", pa.int32(), nullable=False)])


def store_schema(vocab_size: int, metadata: Mapping[str, str]) -> Any:
    """Return the Arrow schema of a store for a vocabulary of this size."""
    id_type = pa.uint16() if vocab_size <= 65_536 else pa.uint32()
    fields = [
        ("input_ids", pa.list_(id_type)),
        ("trained", pa.list_(SPAN)),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("num_tokens", pa.int32()),
        ("num_trained", pa.int32()),
    ]
    return pa.schema([pa.field(name, type, nullable=False) for name, type in fields], metadata=dict(metadata))


@dataclass(frozen=True)
class _Batch:
    """The columns of one record batch, as views into the mapped file."""

    ids: np.ndarray[Any, Any]  # (tokens of the batch,)
    id_starts: np.ndarray[Any, Any]  # (rows + 1,)
    spans: np.ndarray[Any, Any]  # (spans of the batch, 2)
    span_starts: np.ndarray[Any, Any]  # (rows + 1,)


class TokenTable:
    """One table of a store: conversations as ids, read from the mapped file one at a time.

    Args:
        path: An Arrow file as `tokenize_mixture` writes it.

    Attributes:
        metadata: What the file says of template, tokenizer and settings.
        num_tokens_per_row, num_trained_per_row: int64 arrays, (rows,).
    """

    def __init__(self, path: Path) -> None:
        # the mapping lives as long as the table that points into it
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._table = reader.read_all()
        metadata = self._table.schema.metadata or {}
        self.metadata = {key.decode(): value.decode() for key, value in metadata.items()}
        self._batches = [_view(batch) for batch in self._table.to_batches()]
        self._first_rows = np.cumsum([0, *(len(batch.id_starts) - 1 for batch in self._batches)])
        self.num_tokens_per_row = self._table["num_tokens"].to_numpy().astype(np.int64)
        self.num_trained_per_row = self._table["num_trained"].to_numpy().astype(np.int64)
        self._rows = self._table["row"].to_numpy()

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def input_ids(self, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the ids of a conversation: int64, (num_tokens(index),)."""
        batch, place = self._find(index)
        return batch.ids[batch.id_starts[place] : batch.id_starts[place + 1]].astype(np.int64)

    def trained(self, index: int) -> list[tuple[int, int]]:
        """Return the ``[start, stop)`` positions of labels in a conversation's ids."""
        batch, place = self._find(index)
        spans = batch.spans[batch.span_starts[place] : batch.span_starts[place + 1]]
        return [(start, stop) for start, stop in spans.tolist()]

    def source(self, index: int) -> str:
        """Return the name of a conversation's source."""
        return str(self._sources[index])

    def row(self, index: int) -> int:
        """Return a conversation's row in its source's file, from 0."""
        return int(self._rows[index])

    def num_tokens(self, index: int) -> int:
        """Return the length of a conversation in tokens."""
        return int(self.num_tokens_per_row[index])

    def num_trained(self, index: int) -> int:
        """Return the number of labels of a conversation."""
        return int(self.num_trained_per_row[index])

    @cached_property
    def _sources(self) -> Any:
        column = self._table["source"].combine_chunks()
        names = np.array(column.dictionary.to_pylist(), dtype=object)
        return names[column.indices.to_numpy()]

    def _find(self, index: int) -> tuple[_Batch, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"conversation {index} of {len(self)}")
        number = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        return self._batches[number], index - int(self._first_rows[number])


def _view(batch: Any) -> _Batch:
    ids, trained = batch.column("input_ids"), batch.column("trained")
    spans = trained.values
    return _Batch(
        ids=ids.values.to_numpy(),
        id_starts=ids.offsets.to_numpy(),
        spans=np.stack([spans.field("start").to_numpy(), spans.field("stop").to_numpy()], axis=1),
        span_starts=trained.offsets.to_numpy(),
    )
