"""Builds the mixture: an index over the tokens of all sources, and the ledger that says where every row went.

::

    duplicates ─> near duplicates ─> contaminated ─> lengths ─> held out ─> take ─> train.arrow, held_out.arrow

Everything here is arithmetic on columns that the sources keep, and is redone in seconds when a weight, the seed or a
length changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genesis_sft.console import say
from genesis_sft.errors import DataError
from genesis_sft.mixture.index import expand, write_index
from genesis_sft.mixture.ledger import Ledger, SourceLedger
from genesis_sft.mixture.lengths import Examples, Markers, fit_source
from genesis_sft.mixture.select import REASONS, Fate, Ints, is_held_out, select
from genesis_sft.mixture.store import DROPPED, HELD_OUT, LEDGER, REJECTS, TOUCHED, TRAIN, TokenStore
from genesis_sft.mixture.take import Supply, copies
from genesis_sft.mixture.verify import differences
from genesis_sft.recipe import DataSection, SourceSection, TokensSection
from genesis_sft.run_dir import write_json

if TYPE_CHECKING:
    from genesis_sft.conversations.contamination import Question
    from genesis_sft.tokens.sources.store import SourceStore

Fates = np.ndarray[Any, np.dtype[np.int8]]


@dataclass(frozen=True)
class _Mixed:
    """One source in the mixture: what is asked of it, its conversations, what becomes of them."""

    section: SourceSection
    store: SourceStore
    fates: Fates  # (conversations,)
    examples: Examples
    copies: Ints  # (conversations,): how often each is trained on
    train: Ints  # numbers of examples
    held_out: Ints
    marked: int


def build_mixture(
    data: DataSection,
    tokens: TokensSection,
    seed: int,
    stores: Sequence[SourceStore],
    questions: Sequence[Question],
    im_end_id: int,
    newline_length: int,
    out: Path,
) -> TokenStore:
    """Write index and ledger to ``out``, and open the mixture.

    Args:
        data: Sources with take, share and epochs; what is left out.
        tokens: Longest example, and what becomes of longer conversations.
        seed: Decides which conversations are taken; nothing else.
        stores: The sources' tokens, in the order of ``data.sources``.
        questions: What the benchmarks ask; the overlaps of the stores count into them.
        im_end_id: Id of ``<|im_end|>``, which ends every message.
        newline_length: Number of tokens of the line break behind it.
        out: Folder; until all is well nothing of this is in it.

    Raises:
        DataError: No conversation is left to train on.
    """
    selection = select(data, stores, questions)
    markers = Markers(im_end_id, newline_length)
    fitted = [fit_source(s, fates, tokens, markers) for s, fates in zip(stores, selection.fates, strict=True)]
    for store, fates in zip(stores, selection.fates, strict=True):
        fates[is_held_out(store.buckets, data.held_out) & (fates == Fate.USABLE)] = Fate.HELD_OUT
    taken = _take(data, seed, selection.fates, fitted)
    mixed = [
        _Mixed(
            section,
            store,
            fates,
            examples,
            times,
            train=expand(examples, times),
            held_out=expand(examples, (fates == Fate.HELD_OUT).astype(np.int64)),
            marked=marked,
        )
        for section, store, fates, examples, times, marked in zip(
            data.sources, stores, selection.fates, fitted, taken, selection.marked, strict=True
        )
    ]
    settings = {
        "seed": seed,
        "held_out": data.held_out,
        "near_duplicates": data.near_duplicates,
        "decontaminate": data.decontaminate,
        "max_length": tokens.max_length,
        "over_length": tokens.over_length,
        "im_end_id": im_end_id,
        "newline_length": newline_length,
    }
    ledger = Ledger(tuple(map(_entry, mixed)), data.expected_total, settings)
    for line in ledger.lines():
        say(f"  {line}")
    _require_examples(ledger, tokens)
    _write(ledger, mixed, selection.touched, out)
    return TokenStore(out, stores)


def _take(data: DataSection, seed: int, fates: Sequence[Fates], fitted: Sequence[Examples]) -> list[Ints]:
    """Return how often each conversation is trained on, and enter those that are not taken."""
    usable = [np.flatnonzero(of_source == Fate.USABLE) for of_source in fates]
    trained = [
        np.bincount(examples.positions, weights=examples.num_trained, minlength=len(of_source)).astype(np.int64)
        for examples, of_source in zip(fitted, fates, strict=True)
    ]
    supplies = [
        Supply(section, labels[positions])
        for section, labels, positions in zip(data.sources, trained, usable, strict=True)
    ]
    taken = []
    for of_source, positions, times in zip(fates, usable, copies(supplies, seed), strict=True):
        of_source[positions[times == 0]] = Fate.NOT_TAKEN
        all_times = np.zeros(len(of_source), np.int64)
        all_times[positions] = times
        taken.append(all_times)
    return taken


def _entry(mixed: _Mixed) -> SourceLedger:
    section, info, examples = mixed.section, mixed.store.info, mixed.examples
    count = np.bincount(mixed.fates, minlength=len(Fate)).tolist()
    pieces = np.bincount(examples.positions, minlength=len(mixed.fates))
    lost = {position: number for position, number in examples.lost.items() if mixed.copies[position]}
    return SourceLedger(
        name=section.name,
        origin=str(info["origin"]),
        revision=section.revision,
        licence=section.licence,
        format=str(info["format"]),
        sha256=_joined_sha256(info["files"]),
        files=info["files"],
        key=str(info["key"]),
        engine=str(info["engine"]),
        take=section.take,
        share=section.share,
        epochs=section.epochs,
        repaired=info["repaired"],
        rows_read=info["rows_read"],
        rejected=info["rejected"],
        duplicates=count[Fate.DUPLICATE],
        near_duplicates=count[Fate.NEAR_DUPLICATE],
        contaminated=count[Fate.CONTAMINATED],
        held_out=count[Fate.HELD_OUT],
        over_length=count[Fate.OVER_LENGTH],
        untrained=count[Fate.UNTRAINED],
        not_taken=count[Fate.NOT_TAKEN],
        kept=count[Fate.USABLE],
        marked=mixed.marked,
        taken=int(mixed.copies.sum()),
        cut=len(lost),
        split=int((pieces[mixed.copies > 0] > 1).sum()),
        lost_exchanges=sum(lost.values()),
        **_sums(examples, mixed.train, ""),
        **_sums(examples, mixed.held_out, "held_out_"),
    )


def _sums(examples: Examples, chosen: Ints, side: str) -> dict[str, Any]:
    return {
        f"{side}examples": len(chosen),
        f"{side}tokens": int(examples.num_tokens[chosen].sum()),
        f"{side}trained_tokens": int(examples.num_trained[chosen].sum()),
    }


def _joined_sha256(files: Sequence[Mapping[str, Any]]) -> str:
    hashes = [str(file["sha256"]) for file in files if file["sha256"]]  # files of the Hub have none here
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _require_examples(ledger: Ledger, tokens: TokensSection) -> None:
    if ledger.kept:
        return
    hint = "Give more sources, or a smaller held_out."
    if ledger.total("over_length"):
        hint = (
            f"{ledger.total('over_length'):,} are longer than {tokens.max_length} tokens: raise tokens.max_length, or "
            "set tokens.over_length to cut_at_turn or split."
        )
    elif empty := [one.name for one in ledger.sources if one.share is not None and not one.not_taken]:
        hint = f"{', '.join(empty)} has none to give, and with shares alone the scarcest source decides."
    lines = " | ".join(source.line() for source in ledger.sources)
    raise DataError(f"expected conversations to train on, found none: {lines}", hint=hint)


def _write(ledger: Ledger, mixed: Sequence[_Mixed], touched: Mapping[str, list[int]], out: Path) -> None:
    """Write everything aside, check it against the sources, and move it into place; the ledger comes last."""
    work = out / ".unfinished"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        names, rows = [one.section.name for one in mixed], [one.store.rows for one in mixed]
        examples = [one.examples for one in mixed]
        write_index(work / TRAIN, names, rows, examples, [one.train for one in mixed])
        write_index(work / HELD_OUT, names, rows, examples, [one.held_out for one in mixed])
        _write_lines(work / REJECTS, (reject for one in mixed for reject in one.store.rejects()))
        _write_lines(work / DROPPED, _dropped(mixed))
        write_json(work / TOUCHED, touched)
        write_json(work / LEDGER, ledger.to_dict())
        wrong = differences(TokenStore(work, [one.store for one in mixed]))
        assert not wrong, f"the ledger is not that of the index: {'; '.join(wrong)}"
        for name in (TRAIN, HELD_OUT, REJECTS, DROPPED, TOUCHED, LEDGER):
            (work / name).replace(out / name)
    finally:
        shutil.rmtree(work)


def _dropped(mixed: Sequence[_Mixed]) -> Iterator[dict[str, Any]]:
    for one in mixed:
        dropped = np.flatnonzero(np.isin(one.fates, list(REASONS)))
        for row, fate in zip(one.store.rows[dropped].tolist(), one.fates[dropped].tolist(), strict=True):
            yield {"source": one.section.name, "row": row, "reason": REASONS[Fate(fate)]}


def _write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(value) + "\n" for value in values)
