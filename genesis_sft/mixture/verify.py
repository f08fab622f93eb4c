"""Counts a finished mixture anew, from the parts of its sources and from its index, and compares with its ledger."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from genesis_sft.errors import DataError
from genesis_sft.mixture.index import Index
from genesis_sft.mixture.ledger import SourceLedger
from genesis_sft.mixture.lengths import Markers, Piece, clip, find_turns, num_exchanges, num_trained
from genesis_sft.mixture.select import REASONS, Fate, Ints, Mask, is_held_out, repeated
from genesis_sft.mixture.store import DROPPED, TokenStore

if TYPE_CHECKING:
    from genesis_sft.tokens.sources.store import SourceStore

_COLUMNS = ("source", "position", "row", "system_stop", "start", "stop", "num_tokens", "num_trained")


def verify(store: TokenStore) -> None:
    """Recompute every number of a mixture's ledger.

    Raises:
        DataError: Names each number that differs, and each example that is not as its source says.
    """
    if wrong := differences(store):
        raise DataError(
            f"expected a ledger that its tokens bear out in {store.path}, found: {'; '.join(wrong)}",
            hint="Move the folder away and prepare the data again.",
        )


def differences(store: TokenStore) -> list[str]:
    """Return what differs between a mixture's ledger and its tokens, as sentences; empty when nothing does."""
    dropped = _read_dropped(store)
    sides = {"train": store.train.index, "held_out": store.held_out.index}
    wrong: list[str] = []
    for number, entry in enumerate(store.ledger.sources):
        source = next(one for one in store.stores if one.name == entry.name)
        parts = {side: _of_source(index, number) for side, index in sides.items()}
        counts = _count(source, parts, dropped[entry.name], store.ledger.settings)
        wrong += [
            f"{entry.name}: {name} is {found} by its tokens, {_stated(entry, name)} in the ledger"
            for name, found in counts.items()
            if found != _stated(entry, name)
        ]
        for side, index in parts.items():
            wrong += [f"{entry.name}: {fault}" for fault in _faults(source, index, side, store.ledger.settings)]
    repeats = _count_repeated(store)
    wrong += [
        f"{entry.name}: duplicates is {repeats[entry.name]} by the digests, {entry.duplicates} in the ledger"
        for entry in store.ledger.sources
        if repeats[entry.name] != entry.duplicates
    ]
    return wrong


def _count(
    source: SourceStore, parts: Mapping[str, Index], dropped: Mapping[str, list[int]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the numbers of a source's ledger as its parts, the index and the dropped rows give them."""
    train, held_out = parts["train"], parts["held_out"]
    kept, kept_back = (np.unique(index.position) for index in (train, held_out))
    out = np.concatenate([np.asarray(rows, np.int64) for rows in [[], *dropped.values()]])
    used = np.concatenate([source.rows[kept], source.rows[kept_back], out])
    rejected = dict(Counter(reject["reason"] for reject in source.rejects()))
    return {
        "rows_read": len(source) + sum(rejected.values()),
        "rejected": rejected,
        "duplicates": len(dropped.get(REASONS[Fate.DUPLICATE], ())),
        "near_duplicates": len(dropped.get(REASONS[Fate.NEAR_DUPLICATE], ())),
        "contaminated": len(dropped.get(REASONS[Fate.CONTAMINATED], ())),
        "held_out": len(kept_back),
        "over_length": len(dropped.get(REASONS[Fate.OVER_LENGTH], ())),
        "untrained": len(dropped.get(REASONS[Fate.UNTRAINED], ())),
        "not_taken": int((~np.isin(source.rows, used)).sum()),
        "kept": len(kept),
        **_count_pieces(source, train, settings),
        "examples": len(train),
        "tokens": int(train.num_tokens.sum()),
        "trained_tokens": int(train.num_trained.sum()),
        "held_out_examples": len(held_out),
        "held_out_tokens": int(held_out.num_tokens.sum()),
        "held_out_trained_tokens": int(held_out.num_trained.sum()),
    }


def _count_pieces(source: SourceStore, train: Index, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return how many conversations were taken, cut and split, and how many exchanges they lost."""
    partly = np.flatnonzero(~_is_whole(source, train))
    seen: dict[int, set[Piece]] = defaultdict(set)  # position to its pieces
    again = 0  # examples that are a further piece of their conversation
    for index in partly.tolist():
        position, piece = int(train.position[index]), train.piece(index)
        seen[position].add(piece)
        again += piece.start != min(one.start for one in seen[position])
    lost = {}
    markers = Markers(settings["im_end_id"], settings["newline_length"])
    for position, found in seen.items():
        turns = find_turns(source.ids(position), markers)
        lost[position] = len(turns.stops) - sum(num_exchanges(turns, piece) for piece in found)
    return {
        "taken": len(train) - again,
        "cut": sum(number > 0 for number in lost.values()),
        "split": sum(len(found) > 1 for found in seen.values()),
        "lost_exchanges": sum(lost.values()),
    }


def _faults(source: SourceStore, index: Index, side: str, settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with single examples: not the source's row or tokens, too long, on the wrong side."""
    whole, at = _is_whole(source, index), index.position
    is_as_stored = index.row == source.rows[at]
    is_as_stored &= ~whole | (index.num_tokens == source.num_tokens[at]) & (index.num_trained == source.num_trained[at])
    for number in np.flatnonzero(~whole).tolist():
        piece, position = index.piece(number), int(at[number])
        labels = num_trained(clip(source.spans(position), piece))
        found = (piece.num_tokens, labels)
        is_as_stored[number] &= found == (index.num_tokens[number], index.num_trained[number])
    is_right_side = is_held_out(source.buckets[at], settings["held_out"]) == (side == "held_out")
    checks = {
        "differ from the source's tokens": is_as_stored,
        f"are longer than {settings['max_length']} tokens": index.num_tokens <= settings["max_length"],
        "have nothing that is trained": index.num_trained > 0,
        "stand on the wrong side of held_out": is_right_side,
    }
    return [f"{int((~holds).sum()):,} examples of {side} {what}" for what, holds in checks.items() if not holds.all()]


def _is_whole(source: SourceStore, index: Index) -> Mask:
    is_whole: Mask = (index.start == 0) & (index.system_stop == 0) & (index.stop == source.num_tokens[index.position])
    return is_whole


def _of_source(index: Index, number: int) -> Index:
    """Return the examples of one source."""
    where = index.source == number
    columns: dict[str, Ints] = {name: getattr(index, name)[where] for name in _COLUMNS}
    return Index(names=index.names, **columns)


def _stated(entry: SourceLedger, name: str) -> Any:
    value = getattr(entry, name)
    return dict(value) if isinstance(value, Mapping) else value


def _count_repeated(store: TokenStore) -> dict[str, int]:
    found = repeated(np.concatenate([source.digests for source in store.stores]))
    ends = np.cumsum([len(source) for source in store.stores])[:-1]
    return {source.name: int(part.sum()) for source, part in zip(store.stores, np.split(found, ends), strict=True)}


def _read_dropped(store: TokenStore) -> dict[str, dict[str, list[int]]]:
    """Return source to reason to rows of dropped.jsonl."""
    dropped: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    try:
        with open(store.path / DROPPED, encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                dropped[line["source"]][line["reason"]].append(line["row"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected the rows left out in {store.path / DROPPED}, found: {error}") from None
    return dropped
