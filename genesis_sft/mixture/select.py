"""What is left out before lengths count: duplicates, near duplicates, conversations that hold a benchmark item.

Each row has one fate, the first that applies. Everything here is arithmetic on arrays that the sources keep: half a
million rows take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from genesis_sft.recipe import DataSection

if TYPE_CHECKING:
    from genesis_sft.conversations.contamination import Question
    from genesis_sft.tokens.sources.store import SourceStore

Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_NUM_BUCKETS = 10_000


class Fate(IntEnum):
    """What becomes of a well-formed row; ``USABLE`` until it is known which are taken, and then: trained on.

    The first that applies counts, but only usable conversations are held out: one that is too long is that, on either
    side.
    """

    USABLE = 0
    DUPLICATE = 1
    NEAR_DUPLICATE = 2
    CONTAMINATED = 3
    HELD_OUT = 4
    OVER_LENGTH = 5
    UNTRAINED = 6
    NOT_TAKEN = 7


REASONS = {
    Fate.DUPLICATE: "duplicate",
    Fate.NEAR_DUPLICATE: "near duplicate",
    Fate.CONTAMINATED: "contaminated",
    Fate.OVER_LENGTH: "over length",
    Fate.UNTRAINED: "nothing trained",
}
"""The fates that ``dropped.jsonl`` lists, and their reasons there."""


@dataclass(frozen=True)
class Selection:
    """What is left out, and why.

    Attributes:
        fates: For each source, int8 (conversations,): a ``Fate``; so far duplicates and contaminated rows.
        marked: For each source, the rows that hold a benchmark item and are kept all the same.
        touched: Task to the benchmark items, by number, that some conversation holds.
    """

    fates: tuple[np.ndarray[Any, np.dtype[np.int8]], ...]
    marked: tuple[int, ...]
    touched: dict[str, list[int]]


def select(data: DataSection, stores: Sequence[SourceStore], questions: Sequence[Question]) -> Selection:
    """Find duplicates over all sources in their order, and what ``data.decontaminate`` asks for.

    Args:
        data: The rules.
        stores: The sources, in the recipe's order.
        questions: What the benchmarks ask; the sources' overlaps count into them.

    Sources a and b, where row 1 of b has the messages of row 0 of a: the fates are ``(0, ...)`` and ``(?, 1, ...)``.
    """
    sizes = [len(store) for store in stores]
    fates = np.zeros(sum(sizes), np.int8)
    if fates.size:
        fates[repeated(np.concatenate([store.digests for store in stores]))] = Fate.DUPLICATE
        if data.near_duplicates is not None:
            _leave_out_near_duplicates(fates, stores, data.near_duplicates)
    parts = tuple(np.split(fates, np.cumsum(sizes)[:-1]))
    touched: dict[str, set[int]] = {}
    marked = []
    for store, part in zip(stores, parts, strict=True):
        holds = _find_items(store, questions, touched) if data.decontaminate != "off" else np.zeros(len(store), bool)
        holds &= part == Fate.USABLE
        marked.append(int(holds.sum()) if data.decontaminate == "mark" else 0)
        if data.decontaminate == "remove":
            part[holds] = Fate.CONTAMINATED
    return Selection(parts, tuple(marked), {task: sorted(items) for task, items in sorted(touched.items())})


def repeated(digests: np.ndarray[Any, np.dtype[np.uint64]]) -> Mask:
    """Return which rows equal an earlier one.

    Args:
        digests: uint64 (rows, 2).

    Example:
        >>> repeated(np.array([[1, 2], [1, 3], [1, 2]], np.uint64)).tolist()
        [False, False, True]
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: among equals the earliest comes first
    in_order = digests[order]
    found = np.zeros(len(digests), bool)
    found[order[1:]] = (in_order[1:] == in_order[:-1]).all(axis=1)
    return found


def is_held_out(buckets: Ints, share: float) -> Mask:
    """Return which conversations are kept back: those in the first of 10,000 buckets, as many as the share says."""
    return buckets < round(share * _NUM_BUCKETS)  # rounded: 0.07 * 10_000 is 700.0000000000001


def _leave_out_near_duplicates(
    fates: np.ndarray[Any, np.dtype[np.int8]], stores: Sequence[SourceStore], threshold: float
) -> None:
    from genesis_sft.conversations.near_duplicates import near_duplicates

    parts = [store.signatures() for store in stores]
    for store, part in zip(stores, parts, strict=True):
        assert part is not None, f"near_duplicates is set, and source {store.name} has no signatures"
    known = [part for part in parts if part is not None]
    left = np.flatnonzero(fates == Fate.USABLE)
    resembles = near_duplicates(np.concatenate(known)[left], threshold)  # (left,), -1 for none
    fates[left[resembles >= 0]] = Fate.NEAR_DUPLICATE


def _find_items(store: SourceStore, questions: Sequence[Question], touched: dict[str, set[int]]) -> Mask:
    """Return which conversations hold a benchmark item, and enter the items as touched."""
    holds = np.zeros(len(store), bool)
    overlaps = store.overlaps()
    assert overlaps is not None or not questions, f"source {store.name} was not compared with the benchmarks"
    for position, number in overlaps or ():
        holds[position] = True
        touched.setdefault(questions[number].task, set()).add(questions[number].doc_id)
    return holds
