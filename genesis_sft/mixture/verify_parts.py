r"""Counts the parts of a source anew from their ids and labels, and compares with what is written beside them.

In the ids alone a conversation can be checked against its template, ``S`` and ``E`` for the control tokens that begin
and end a message::

    S user \n hi E \n S assistant \n yo E \n        labels: yo E
    └ each row begins with S, and so does each message behind the line break of an E; the last E ends the row

Whole parts at a time: a million tokens take a few milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from genesis_sft.mixture.select import Ints, Mask
from genesis_sft.run_dir import hash_file
from genesis_sft.tokens.sources.parts import part_name, part_schema

if TYPE_CHECKING:
    from genesis_sft.tokens.sources.store import SourceStore

_SCHEMAS = tuple(part_schema(vocab_size, {}) for vocab_size in (1, 1 << 20))  # 16 and 32 bits


@dataclass(frozen=True)
class _Part:
    """A part of n conversations; positions count through its ids.

    Attributes:
        ids: Of all conversations, end to end.
        bounds: int64 (n + 1,): where each conversation begins, and where the last ends.
        starts, stops: int64 (spans,): of labels, counted from the beginning of their conversation.
        owners: int64 (spans,): the conversation of each span.
        columns: ``row``, ``num_tokens``, ``num_trained``, ``bucket``: int64 (n,).
    """

    ids: np.ndarray[Any, Any]
    bounds: Ints
    starts: Ints
    stops: Ints
    owners: Ints
    columns: Mapping[str, Ints]

    @property
    def lengths(self) -> Ints:
        """int64 (n,): tokens of each conversation, as they lie there."""
        return np.diff(self.bounds)


def part_faults(source: SourceStore, settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a source's parts, as sentences that name source and part; empty when nothing is.

    Args:
        source: The source; ``hashes`` and ``vocab_size`` of its source.json are compared where they are there.
        settings: ``im_end_id`` and ``newline_length`` as in the ledger.
    """
    wrong = []
    for name, expected in dict(source.info.get("hashes", {})).items():
        path = source.path / name
        if not path.is_file():
            wrong.append(f"{source.name}, {name}: it is missing")
        elif hash_file(path) != expected:
            wrong.append(f"{source.name}, {name}: its content is not what was written, by its hash")
    counted: Counter[str] = Counter()
    last_row = -1
    for number in range(source.info["parts"]):
        name = f"{part_name(number)}.arrow"
        try:
            part = _read(source, name)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            wrong.append(f"{source.name}, {name}: {error}")
            continue
        faults = _of_columns(part, last_row, source.info.get("vocab_size"))
        # messages are only looked for where rows are as long as they say, and labels only in messages
        faults = faults or _of_messages(part, settings)
        wrong += [f"{source.name}, {name}: {count:,} {what}" for what, count in faults.items()]
        last_row = max([last_row, *part.columns["row"][-1:].tolist()])
        found = {"conversations": len(part.lengths), "tokens": len(part.ids)}
        counted.update(found, trained_tokens=int((part.stops - part.starts).sum()))
    stated = {name: source.info.get(name) for name in counted}
    wrong += [
        f"{source.name}: {counted[name]:,} {name.replace('_', ' ')} in its parts, {stated[name]} in source.json"
        for name in counted
        if counted[name] != stated[name]
    ]
    return wrong


def _read(source: SourceStore, name: str) -> _Part:
    """Read a part, after Arrow has found that no list reaches beyond its values."""
    table = pa.ipc.open_file(pa.memory_map(str(source.path / name))).read_all().combine_chunks()
    if not any(table.schema.equals(schema) for schema in _SCHEMAS):
        raise ValueError(f"it has other columns: {', '.join(table.schema.names)}")
    table.validate(full=True)
    if any(column.null_count for column in table.columns):
        raise ValueError("it has values that are missing")
    columns = {name: _column(table[name]) for name in ("row", "num_tokens", "num_trained", "bucket")}
    if not table.num_rows:
        none = np.zeros(0, np.int64)
        return _Part(none, np.zeros(1, np.int64), none, none, none, columns)
    ids, spans = table["input_ids"].chunk(0), table["trained"].chunk(0)
    first, last = (int(ids.offsets[at].as_py()) for at in (0, -1))
    ends = spans.offsets.to_numpy().astype(np.int64)
    starts, stops = (_column(spans.values.field(side))[ends[0] : ends[-1]] for side in ("start", "stop"))
    return _Part(
        ids=ids.values.to_numpy()[first:last],
        bounds=ids.offsets.to_numpy().astype(np.int64) - first,
        starts=starts,
        stops=stops,
        owners=np.repeat(np.arange(table.num_rows), np.diff(ends)),
        columns=columns,
    )


def _column(column: Any) -> Ints:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _of_columns(part: _Part, last_row: int, vocab_size: int | None) -> dict[str, int]:
    """Return what is wrong with lengths, ids, labels and rows, and how often."""
    lengths, (starts, stops, owners) = part.lengths, (part.starts, part.stops, part.owners)
    trained = np.bincount(owners, weights=stops - starts, minlength=len(lengths)).astype(np.int64)
    follows = np.zeros(len(owners), bool)
    follows[1:] = owners[1:] == owners[:-1]
    before = np.where(follows, np.roll(stops, 1), 0)
    rows, buckets = part.columns["row"], part.columns["bucket"]
    return _counted(
        ("conversations have another length than num_tokens says", lengths != part.columns["num_tokens"]),
        ("conversations have other labels than num_trained says", trained != part.columns["num_trained"]),
        ("spans of labels overlap, are empty or out of order", (starts < before) | (starts >= stops)),
        ("spans of labels reach out of their conversation", stops > lengths[owners]),
        ("rows are not in order", np.diff(rows, prepend=last_row) <= 0),
        ("conversations have no bucket of 10,000", (buckets < 0) | (buckets >= 10_000)),
        (f"ids are none of the {vocab_size} of the tokenizer", part.ids >= (vocab_size or 1 << 32)),
    )


def _of_messages(part: _Part, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return what is wrong with the messages, and how often: their beginnings, their ends, labels outside of them."""
    if not len(part.ids):
        return {}
    bounds, behind = part.bounds, 1 + int(settings["newline_length"])
    begins = np.flatnonzero(part.ids == part.ids[0])  # <|im_start|>: the ledger does not name its id
    ends = np.flatnonzero(part.ids == settings["im_end_id"])
    num_begins, num_ends = (np.diff(np.searchsorted(found, bounds)) for found in (begins, ends))
    faults = _counted(
        ("conversations have messages that begin and do not end, or end and did not begin", num_begins != num_ends),
        ("conversations have fewer than two messages", np.minimum(num_begins, num_ends) < 2),
    )
    if faults:
        return faults
    # as many begin as end in each conversation, so the k-th of either belong to the same message
    firsts = np.searchsorted(begins, bounds[:-1])
    expected = np.concatenate([[0], ends[:-1] + behind])
    lasts = ends[np.searchsorted(ends, bounds[1:]) - 1] + behind
    torn = np.zeros(len(bounds) - 1, bool)
    torn[np.searchsorted(bounds, begins[begins != expected], side="right") - 1] = True
    faults = _counted(
        ("conversations have tokens between their messages", torn | (lasts != bounds[1:])),
        ("conversations do not begin with a message", begins[firsts] != bounds[:-1]),
    )
    if faults:
        return faults
    at, until = part.starts + bounds[part.owners], part.stops + bounds[part.owners]
    message = np.searchsorted(begins, at, side="right") - 1
    within = (at > begins[message] + 1) & (until <= ends[message] + 1)  # behind the role; a row may ask for any message
    return _counted(("spans of labels lie outside of the text of a message", ~within))


def _counted(*checks: tuple[str, Mask]) -> dict[str, int]:
    return dict(_nonzero(checks))


def _nonzero(checks: tuple[tuple[str, Mask], ...]) -> Iterator[tuple[str, int]]:
    for what, is_wrong in checks:
        if count := int(np.count_nonzero(is_wrong)):
            yield what, count
