"""Counts a finished mixture anew, from the parts of its sources and from its index, and compares with its ledger."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genesis_sft.errors import DataError
from genesis_sft.mixture.index import Index
from genesis_sft.mixture.ledger import SourceLedger
from genesis_sft.mixture.lengths import Markers, Piece, clip, find_turns, num_exchanges, num_trained
from genesis_sft.mixture.select import REASONS, Fate, Ints, Mask, is_held_out, repeated
from genesis_sft.mixture.store import DROPPED, REJECTS, TokenStore
from genesis_sft.mixture.verify_parts import part_faults

if TYPE_CHECKING:
    from genesis_sft.tokens.sources.store import SourceStore

_COLUMNS = ("source", "position", "row", "system_stop", "start", "stop", "num_tokens", "num_trained")


def verify(store: TokenStore) -> None:
    """Recompute every number of a mixture's ledger, from the ids and labels themselves.

    Raises:
        DataError: Names each part that is not as it was written, else each number of the ledger that differs and each
            example that is not as its source says.
    """
    wrong = [fault for source in store.stores for fault in part_faults(source, store.ledger.settings)]
    # where the parts do not bear themselves out, nothing can be counted from them
    if wrong := wrong or differences(store):
        raise DataError(
            f"expected a ledger that its tokens bear out in {store.path}, found: {'; '.join(wrong)}",
            hint="Move the folder away and prepare the data again.",
        )


def differences(store: TokenStore) -> list[str]:
    """Return what differs between a mixture's ledger and its tokens, as sentences; empty when nothing does."""
    dropped = _read_dropped(store)
    sides = {"train": store.train.index, "held_out": store.held_out.index}
    wrong = _foreign_lines(store, dropped)
    for number, entry in enumerate(store.ledger.sources):
        source = next(one for one in store.stores if one.name == entry.name)
        parts = {side: _of_source(index, number) for side, index in sides.items()}
        torn = [num for index in parts.values() if (num := _count_torn(source, index, store.ledger.settings))]
        if torn:
            wrong.append(f"{entry.name}: {sum(torn):,} examples do not begin and end between exchanges")
            continue
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


def _count_torn(source: SourceStore, index: Index, settings: Mapping[str, Any]) -> int:
    """Return how many examples are no whole exchanges."""
    torn, markers = 0, Markers(settings["im_end_id"], settings["newline_length"])
    for number in np.flatnonzero(~_is_whole(source, index)).tolist():
        piece, turns = index.piece(number), find_turns(source.ids(int(index.position[number])), markers)
        begins = piece.start == piece.system_stop == 0 or (
            piece.start in (turns.system_stop, *turns.stops) and piece.system_stop in (0, turns.system_stop)
        )
        torn += not (begins and piece.stop in turns.stops)
    return torn


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


def _foreign_lines(store: TokenStore, dropped: Mapping[str, Mapping[str, list[int]]]) -> list[str]:
    """Return what dropped.jsonl and rejects.jsonl say of rows that are not the sources', or say too often."""
    wrong = []
    stores = {source.name: source for source in store.stores}
    for name, of_source in dropped.items():
        known = stores.get(name)
        for reason in of_source.keys() - (REASONS.values() if known is not None else ()):
            wrong.append(f"{DROPPED}: {len(of_source[reason]):,} lines of {name}, {reason}, which the ledger lacks")
        if known is None:
            continue
        rows = np.array([row for found in of_source.values() for row in found], np.int64)
        if again := len(rows) - len(np.unique(rows)):
            wrong.append(f"{DROPPED}: {again:,} rows of {name} stand there more than once")
        if foreign := int((~np.isin(rows, known.rows)).sum()):
            wrong.append(f"{DROPPED}: {foreign:,} rows of {name} are no conversations of it")
        used = [index.row[index.source == number] for number, index in _of_name(store, name)]
        if both := int(np.isin(rows, np.concatenate(used)).sum()):
            wrong.append(f"{DROPPED}: {both:,} rows of {name} are examples all the same")
    found = Counter((name, reason) for name, reason, _ in _read_lines(store.path / REJECTS))
    stated = {(one.name, reason): count for one in store.ledger.sources for reason, count in one.rejected.items()}
    wrong += [
        f"{REJECTS}: {found[key]:,} lines of {key[0]}, {key[1]}; {stated.get(key, 0):,} in the ledger"
        for key in sorted({*found, *stated})
        if found[key] != stated.get(key, 0)
    ]
    return wrong


def _of_name(store: TokenStore, name: str) -> list[tuple[int, Index]]:
    return [(side.index.names.index(name), side.index) for side in (store.train, store.held_out)]


def _read_dropped(store: TokenStore) -> dict[str, dict[str, list[int]]]:
    """Return source to reason to rows of dropped.jsonl."""
    dropped: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for name, reason, row in _read_lines(store.path / DROPPED):
        dropped[name][reason].append(row)
    return dropped


def _read_lines(path: Path) -> list[tuple[str, str, int]]:
    """Return source, reason and row of each line."""
    try:
        with open(path, encoding="utf-8", newline="\n") as lines:
            found = [(line["source"], line["reason"], line["row"]) for line in map(json.loads, lines)]
        if any(not isinstance(row, int) or not isinstance(name + reason, str) for name, reason, row in found):
            raise ValueError("a line of other values than source, reason and row")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"expected the rows left out in {path}, found: {error}") from None
    return found
