"""The index of a mixture: which part of which conversation each example is. Arrow files, one row an example.

- ``source`` dictionary<string>, ``row`` int64: name of the source, row in it from 0
- ``position`` int64: number of the conversation in the source's parts, counted through
- ``system_stop``, ``start``, ``stop`` int32: the example's ids are ``ids[:system_stop] + ids[start:stop]``
- ``num_tokens``, ``num_trained`` int32

A whole conversation is ``(0, 0, its length)``; only a later piece of a long one has a system message put in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genesis_sft.mixture.lengths import Examples, Piece
from genesis_sft.mixture.select import Ints

INDEX_VERSION = 1
_INTEGERS = {
    "position": pa.int64(),
    "row": pa.int64(),
    "system_stop": pa.int32(),
    "start": pa.int32(),
    "stop": pa.int32(),
    "num_tokens": pa.int32(),
    "num_trained": pa.int32(),
}
SCHEMA = pa.schema(
    [
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        *(pa.field(name, type, nullable=False) for name, type in _INTEGERS.items()),
    ],
    metadata={"genesis_sft.version": str(INDEX_VERSION)},
)


@dataclass(frozen=True)
class Index:
    """One side of a mixture; E examples: sources in the recipe's order, rows in their source's, copies side by side.

    Attributes:
        names: Names of the sources.
        source: int64 (E,): number of each example's source in ``names``.
        position, row, system_stop, start, stop, num_tokens, num_trained: int64 (E,).
    """

    names: tuple[str, ...]
    source: Ints
    position: Ints
    row: Ints
    system_stop: Ints
    start: Ints
    stop: Ints
    num_tokens: Ints
    num_trained: Ints

    def __len__(self) -> int:
        return len(self.source)

    def piece(self, index: int) -> Piece:
        """Return which part of its conversation an example is."""
        return Piece(int(self.system_stop[index]), int(self.start[index]), int(self.stop[index]))


def expand(examples: Examples, copies: Ints) -> Ints:
    """Return the examples of the conversations taken, as numbers into ``examples``; copies stand side by side.

    Args:
        examples: Of one source.
        copies: int64 (conversations,): how often each conversation of the source is taken, by position.

    Conversation 3 has examples 0 and 1, conversation 5 has example 2; 3 is taken twice and 5 once: ``0 1 0 1 2``.
    """
    positions, first, pieces = np.unique(examples.positions, return_index=True, return_counts=True)
    times = copies[positions]
    starts, lengths = np.repeat(first, times), np.repeat(pieces, times)
    ends = np.cumsum(lengths)
    places = np.arange(int(ends[-1]) if len(ends) else 0)
    chosen: Ints = places + np.repeat(starts - (ends - lengths), lengths)
    return chosen


def write_index(
    path: Path, names: Sequence[str], rows: Sequence[Ints], examples: Sequence[Examples], chosen: Sequence[Ints]
) -> None:
    """Write one side of a mixture.

    Args:
        path: The file.
        names: Names of the sources.
        rows: For each source, the row of each of its conversations.
        examples: For each source, its examples.
        chosen: For each source, the numbers of the examples that are meant, in order; see `expand`.
    """
    numbers = np.repeat(np.arange(len(names)), [len(part) for part in chosen])
    columns = [pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(list(names), pa.string()))]
    for name, type in _INTEGERS.items():
        parts = [
            (of[found.positions] if name == "row" else found.positions if name == "position" else getattr(found, name))[
                part
            ]
            for of, found, part in zip(rows, examples, chosen, strict=True)
        ]
        columns.append(pa.array(np.concatenate(parts), type))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as file:
        file.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


def read_index(path: Path) -> Index:
    """Read what `write_index` wrote.

    Raises:
        OSError, pyarrow.ArrowException, KeyError: There is no such file, or it is damaged.
    """
    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_file(file).read_all()
    column: Any = table["source"].combine_chunks()
    return Index(
        names=tuple(column.dictionary.to_pylist()),
        source=column.indices.to_numpy().astype(np.int64),
        **{name: table[name].to_numpy().astype(np.int64) for name in _INTEGERS},
    )
