"""A source's store, opened: its conversations as ids, in the order of their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genesis_sft.conversations.conversation import Conversation
from genesis_sft.errors import DataError
from genesis_sft.tokens.sources.entry import SOURCE_INFO
from genesis_sft.tokens.sources.parts import part_name
from genesis_sft.tokens.sources.work import array_path

Ints = np.ndarray[Any, np.dtype[np.int64]]


class SourceStore:
    """The conversations of one source; position p is the p-th well-formed conversation of its rows.

    Args:
        path: Folder with parts and source.json.
        name: Name of the source in the recipe.
        signatures: Folder with MinHash signatures, where they were wanted.
        overlaps: Folder with benchmark items found, where they were wanted.

    Attributes:
        info: source.json: what was read, and how.
        rows: (n,) row of each conversation in the source.
        digests: (n, 2) uint64; equal for equal conversations.
        buckets: (n,) 0 to 9,999; the lowest are held out.
        num_tokens, num_trained: (n,).

    Raises:
        DataError: A file is missing or damaged.
    """

    def __init__(self, path: Path, name: str, signatures: Path | None = None, overlaps: Path | None = None) -> None:
        self.path, self.name = path, name
        self._signatures, self._overlaps = signatures, overlaps
        try:
            self.info: dict[str, Any] = json.loads((path / SOURCE_INFO).read_text(encoding="utf-8"))
            # a mapping lives as long as the table that points into it
            tables = [_read(path / f"{part_name(number)}.arrow") for number in range(self.info["parts"])]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(
                f"expected the store of a source in {path}, found a damaged one: {error}",
                hint="Move the folder away and run the same command again.",
            ) from None
        self._tables = tables
        self._first = np.cumsum([0, *(table.num_rows for table in tables)])
        self.rows = self._column("row")
        self.buckets = self._column("bucket")
        self.num_tokens = self._column("num_tokens")
        self.num_trained = self._column("num_trained")

    def __len__(self) -> int:
        return int(self._first[-1])

    def ids(self, position: int) -> Ints:
        """Return the ids of a conversation: (num_tokens,) int64."""
        part, place = self._find(position)
        ids, starts = self._ids[part]
        return np.asarray(ids[starts[place] : starts[place + 1]], dtype=np.int64)

    def spans(self, position: int) -> list[tuple[int, int]]:
        """Return the ``[start, stop)`` positions of labels in a conversation's ids."""
        part, place = self._find(position)
        spans, starts = self._spans[part]
        return [(start, stop) for start, stop in spans[starts[place] : starts[place + 1]].tolist()]

    @cached_property
    def digests(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """(n, 2) uint64."""
        parts = [
            np.frombuffer(column.buffers()[1], dtype=np.uint64, count=2 * len(column), offset=16 * column.offset)
            for table in self._tables
            for column in table["digest"].chunks
        ]
        return np.concatenate([np.zeros(0, np.uint64), *parts]).reshape(-1, 2)

    def signatures(self) -> np.ndarray[Any, np.dtype[np.uint32]] | None:
        """Return the MinHash signatures, (n, permutations); ``None`` where none were wanted."""
        if self._signatures is None:
            return None
        return np.concatenate([np.load(path, mmap_mode="r") for path in self._arrays(self._signatures)])

    def overlaps(self) -> list[tuple[int, int]] | None:
        """Return (position, question) for each benchmark item found; ``None`` where none were looked for."""
        if self._overlaps is None:
            return None
        paths = self._arrays(self._overlaps)
        found = [np.load(path) + np.array([first, 0]) for first, path in zip(self._first, paths, strict=False)]
        return [(position, question) for part in found for position, question in part.tolist()]

    def samples(self) -> Iterator[Conversation]:
        """Yield some conversations as text, evenly spaced."""
        for number in range(self.info["parts"]):
            with open(self.path / f"{part_name(number)}.samples.jsonl", encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    yield replace(Conversation.from_json(line), source=self.name)

    def rejects(self) -> Iterator[dict[str, Any]]:
        """Yield what rejects.jsonl says of each row that is no conversation, with the name of the source."""
        for number in range(self.info["parts"]):
            with open(self.path / f"{part_name(number)}.rejects.jsonl", encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    yield {"source": self.name, **json.loads(line)}

    @cached_property
    def _ids(self) -> list[tuple[np.ndarray[Any, Any], Ints]]:
        columns = [_only(table, "input_ids") for table in self._tables]
        return [(column.values.to_numpy(), column.offsets.to_numpy()) for column in columns]

    @cached_property
    def _spans(self) -> list[tuple[np.ndarray[Any, Any], Ints]]:
        found = []
        for table in self._tables:
            column = _only(table, "trained")
            bounds = [column.values.field(name).to_numpy() for name in ("start", "stop")]
            found.append((np.stack(bounds, axis=1), column.offsets.to_numpy()))
        return found

    def _column(self, name: str) -> Ints:
        parts = [table[name].to_numpy() for table in self._tables]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

    def _arrays(self, folder: Path) -> list[Path]:
        return [array_path(folder, number) for number in range(self.info["parts"])]

    def _find(self, position: int) -> tuple[int, int]:
        if not 0 <= position < len(self):
            raise IndexError(f"conversation {position} of {len(self)}")
        part = int(np.searchsorted(self._first, position, side="right")) - 1
        return part, position - int(self._first[part])


def _read(path: Path) -> Any:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _only(table: Any, name: str) -> Any:
    """Return the column of a part, which is one record batch."""
    return table[name].chunk(0)
