"""One side of a mixture as examples: ids and labels, read from the sources' mapped parts one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from genesis_sft.errors import DataError
from genesis_sft.mixture.index import Index
from genesis_sft.mixture.lengths import clip
from genesis_sft.mixture.select import Ints

if TYPE_CHECKING:
    from genesis_sft.tokens.sources.store import SourceStore


class TokenTable:
    """Examples by number.

    Args:
        index: Which part of which conversation each example is.
        stores: The sources by name.

    Attributes:
        index: As given.
        num_tokens_per_row, num_trained_per_row: int64 arrays, (examples,).
    """

    def __init__(self, index: Index, stores: Mapping[str, SourceStore]) -> None:
        self.index = index
        self._stores = [stores[name] for name in index.names]
        self.num_tokens_per_row = index.num_tokens
        self.num_trained_per_row = index.num_trained

    def __len__(self) -> int:
        return len(self.index)

    def input_ids(self, index: int) -> Ints:
        """Return the ids of an example: int64, (num_tokens(index),).

        Raises:
            DataError: The conversation has another length than its source says.
        """
        store, position = self._find(index)
        piece, ids = self.index.piece(index), store.ids(position)
        if len(ids) != store.num_tokens[position]:
            raise DataError(
                f"expected {store.num_tokens[position]} tokens in row {store.rows[position]} of {store.name}, found "
                f"{len(ids)}: its part is damaged",
                hint="Move the folder away and prepare the data again.",
            )
        if not piece.system_stop:
            return ids[piece.start : piece.stop]
        return np.concatenate([ids[: piece.system_stop], ids[piece.start : piece.stop]])

    def trained(self, index: int) -> list[tuple[int, int]]:
        """Return the ``[start, stop)`` positions of labels in an example's ids."""
        store, position = self._find(index)
        return clip(store.spans(position), self.index.piece(index))

    def source(self, index: int) -> str:
        """Return the name of an example's source."""
        return self.index.names[int(self.index.source[index])]

    def row(self, index: int) -> int:
        """Return an example's row in its source, from 0."""
        return int(self.index.row[index])

    def num_tokens(self, index: int) -> int:
        """Return the length of an example in tokens."""
        return int(self.num_tokens_per_row[index])

    def num_trained(self, index: int) -> int:
        """Return the number of labels of an example."""
        return int(self.num_trained_per_row[index])

    def _find(self, index: int) -> tuple[SourceStore, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._stores[self.index.source[index]], int(self.index.position[index])
