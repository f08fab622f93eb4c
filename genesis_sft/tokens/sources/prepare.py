"""All sources of a recipe as stores of ids: taken from the cache, or made on all cores, one part a block of rows.

    file ──> blocks of rows ──> worker: clean, encode, check, write ──> parts ──> store in the cache ──> run's folder

A process that is killed leaves whole parts, and the next one makes the others: the store is the same, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_sft.assets import cache_dir, writable_cache
from genesis_sft.console import format_duration, progress, say
from genesis_sft.conversations.contamination import QuestionIndex
from genesis_sft.conversations.reading import (
    BLOCK_BYTES,
    file_sha256,
    source_identity,
)
from genesis_sft.errors import DataError
from genesis_sft.recipe import DataSection, SourceSection, TokensSection
from genesis_sft.run_dir import write_json
from genesis_sft.tokens.sources.entry import SOURCE_INFO, link
from genesis_sft.tokens.sources.parts import part_name
from genesis_sft.tokens.sources.pool import Pool
from genesis_sft.tokens.sources.store import SourceStore
from genesis_sft.tokens.sources.wanted import WantedSource, open_sources
from genesis_sft.tokens.sources.work import BlockTask, SourceTask, Workshop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES_WORTH_PROCESSES = 16_000_000  # a worker takes most of a second to start
_TIMES_PACKED = {".gz": 4, ".zst": 4, ".parquet": 3}  # about how much more text a file holds than bytes


@dataclass
class Prepared:
    """What the preparation of all sources came to.

    Attributes:
        stores: One a source, in the order of the recipe.
        num_tokens: Tokens that were encoded now; what the cache had is not among them.
        seconds: What that took, reading and writing included.
    """

    stores: list[SourceStore]
    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens encoded per second; ``None`` when all came from the cache."""
        return self.num_tokens / max(self.seconds, 1e-9) if self.num_tokens else None


class _EngineDiffers(Exception):
    """The fast engine gave other ids than the reference in the run, although it had been proven at the start."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def prepare_sources(
    data: DataSection,
    tokens: TokensSection,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    questions: QuestionIndex | None = None,
    num_workers: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Prepared:
    """Make the store of every source, or take it from the cache; give ``out`` names for their files.

    Args:
        data: The sources.
        tokens: What is trained on, what becomes of reasoning.
        tokenizer: A fast tokenizer that has the control tokens.
        out: Folder for one folder a source.
        questions: Benchmark items to look for.
        num_workers: Processes; as many as there are cores when absent.
        block_bytes: Text in one block; the store's parts depend on it, their content does not.

    Raises:
        DataError: A source cannot be read, or holds no conversation at all.
        AssetError: A Hub data set is out of reach, or the cache cannot be written.
        ModelError: The tokenizer cannot keep text apart from control tokens.
    """
    cache = cache_dir() / "sources"
    started = time.monotonic()
    sources = open_sources(data, tokens, tokenizer, cache, questions, block_bytes)
    with ExitStack() as locks:
        with writable_cache(cache):
            # in the order of their keys: two processes never wait for each other
            for entry in sorted({source.entry for source in sources}, key=lambda entry: entry.key):
                locks.enter_context(entry.locked())
            for source in sources:
                source.make_ready()
            num_tokens = _make(sources, len(tokenizer), questions, num_workers, block_bytes)
            for source in sources:  # two of them may share a store
                source.is_whole = True
        stores = [_open_store(source, out) for source in sources]
    prepared = Prepared(stores, num_tokens, time.monotonic() - started)
    _say_result(prepared)
    return prepared


def _make(
    sources: Sequence[WantedSource],
    vocab_size: int,
    questions: QuestionIndex | None,
    num_workers: int | None,
    block_bytes: int,
) -> int:
    """Make what is missing; return the number of tokens that were encoded."""
    missing = list({source.entry: source for source in sources if not source.is_complete()}.values())
    if not missing:
        return 0
    try:
        return _make_missing(missing, vocab_size, questions, num_workers, block_bytes)
    except _EngineDiffers as differs:
        say(
            f"  the fast tokenizer engine gave other ids than the reference for {differs.text}; "
            "all is encoded again with the reference, which takes longer"
        )
        for source in missing:
            source.encoder = source.encoder.with_reference(f"differed in the run for {differs.text}")
            source.start_over()
        return _make_missing(missing, vocab_size, questions, num_workers, block_bytes)


def _make_missing(
    missing: Sequence[WantedSource],
    vocab_size: int,
    questions: QuestionIndex | None,
    num_workers: int | None,
    block_bytes: int,
) -> int:
    total = sum(source.opened.num_bytes for source in missing)
    if num_workers is None:
        worthwhile = sum(map(_text_bytes, missing)) >= _BYTES_WORTH_PROCESSES
        num_workers = len(os.sched_getaffinity(0)) if worthwhile else 0
    # found out here, once, and not by each thread that hands an encoder to its worker
    engines = {source.encoder.engine: source.encoder.engine_note for source in missing}
    if "tokenizers" in engines:
        say(f"  encoding with tokenizers, which is slower: {engines['tokenizers']}")
    workshop = Workshop([_as_task(source, vocab_size) for source in missing], questions)
    started, num_tokens = time.monotonic(), 0
    with Pool(workshop, num_workers) as pool, progress("preparing", total / 1e6, "MB") as bar:
        for task, done in pool.map(_tasks(missing, block_bytes)):
            if done.differs is not None:
                raise _EngineDiffers(done.differs)
            num_tokens += done.num_tokens
            rate = num_tokens / max(time.monotonic() - started, 1e-9)
            bar.advance(task.num_bytes / 1e6, note=f"{missing[task.source].section.name}, {rate:,.0f} tokens/s")
    for source in missing:
        _refuse_if_changed(source)
        if not source.is_whole:
            source.entry.finish(_info(source, vocab_size))
    return num_tokens


def _refuse_if_changed(source: WantedSource) -> None:
    """What was read under the hash of other rows is not to be kept under it."""
    if source_identity(source.section) != source.settings["rows"]:
        if not source.is_whole:
            shutil.rmtree(source.entry.making)
        raise DataError(
            f"source {source.section.name}: expected rows that stay as they are, found that {source.opened.origin} was "
            "changed while it was read",
            hint="Run the same command again when it is as it shall be.",
        )


def _text_bytes(source: WantedSource) -> int:
    files = source.opened.files
    return sum(file.num_bytes * _TIMES_PACKED.get(file.path.suffix, 1) for file in files) or source.opened.num_bytes


def _tasks(sources: Sequence[WantedSource], block_bytes: int) -> Iterator[BlockTask]:
    for number, source in enumerate(sources):
        yield from source.tasks(number, block_bytes)


def _as_task(source: WantedSource, vocab_size: int) -> SourceTask:
    return SourceTask(
        cleaning=source.cleaning,
        encoder=source.encoder,
        vocab_size=vocab_size,
        metadata={f"genesis_sft.{name}": json.dumps(value) for name, value in source.settings.items()},
        parts=source.parts,
        signatures=source.annotation("signatures"),
        overlaps=source.annotation("overlaps"),
    )


def _info(source: WantedSource, vocab_size: int) -> dict[str, Any]:
    counts: list[dict[str, Any]] = [
        json.loads((source.entry.making / f"{part_name(number)}.json").read_text(encoding="utf-8"))
        for number in range(len(source.blocks))
    ]
    rejected: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    for part in counts:
        rejected.update(part["rejected"])
        repaired.update(part["repaired"])
    info: dict[str, Any] = {
        name: sum(part[name] for part in counts) for name in ("rows_read", "conversations", "tokens", "trained_tokens")
    }
    return info | {
        "format": source.cleaning.format,
        "rejected": dict(sorted(rejected.items())),
        "repaired": dict(sorted(repaired.items())),
        "engine": source.encoder.engine,
        "engine_note": source.encoder.engine_note,
        "parts": len(source.blocks),
        "vocab_size": vocab_size,
        "files": _files(source, [part["rows_read"] for part in counts]),
        "settings": source.settings,
    }


def _files(source: WantedSource, rows_read: Sequence[int]) -> list[dict[str, Any]]:
    """Return where each file's rows begin, counted through the source, and how many rows it has."""
    rows: Counter[tuple[str, int]] = Counter()
    for file, count in zip(source.blocks, rows_read, strict=True):
        rows[file] += count
    hashes = {file.name: file_sha256(file.path) for file in source.opened.files}
    return [
        {"name": name, "sha256": hashes.get(name), "first_row": first_row, "rows": count}
        for (name, first_row), count in rows.items()
    ]


def _open_store(source: WantedSource, out: Path) -> SourceStore:
    info = source.entry.info()
    assert info is not None, "a store that was just made is not whole"
    name = source.section.name
    _refuse_rejects(SourceStore(source.entry.folder, name), source.section)
    _warn_of_many_rejects(info, name)
    link(source.entry.folder, info, out / name)
    # the cache may have met the same rows under other names: these are the run's own
    names = {file_sha256(file.path): file.name for file in source.opened.files}
    files = [facts | {"name": names.get(facts["sha256"], facts["name"])} for facts in info["files"]]
    write_json(out / name / SOURCE_INFO, {**info, "name": name, "origin": source.opened.origin, "files": files})
    return SourceStore(out / name, name, source.annotation("signatures"), source.annotation("overlaps"))


def _refuse_rejects(store: SourceStore, section: SourceSection) -> None:
    """Stop where a bad row is to stop the run, or where a source has no conversation at all."""
    first = next(store.rejects(), None)
    if first is not None and (section.bad_rows == "stop" or not len(store)):
        line = f" (line {first['line']})" if first["line"] else ""
        rejected = sum(store.info["rejected"].values())
        others = f"; no other row is one either: {rejected:,} rejected" if not len(store) and rejected > 1 else ""
        raise DataError(
            f"source {store.name}: {first['file']}, row {first['row']}{line}: {first['detail']}{others}",
            hint="Mend the rows, or state the source's format."
            if not len(store)
            else "Mend the row, or leave bad_rows: stop out, so that such rows are left out and counted.",
        )
    if not len(store):
        raise DataError(f"source {store.name}: expected rows in {section.path or section.hub}, found none")


def _warn_of_many_rejects(info: dict[str, Any], name: str) -> None:
    rejected = sum(info["rejected"].values())
    if 2 * rejected > info["rows_read"]:
        reason = max(info["rejected"], key=info["rejected"].__getitem__)
        say(
            f"  warning: {rejected:,} of {info['rows_read']:,} rows of {name} are rejected, most of them for "
            f"{reason!r}; they were read as {info['format']}: files of another format are a source of their own"
        )


def _say_result(prepared: Prepared) -> None:
    if prepared.tokens_per_second is None:
        say("  the tokens of all sources were in the cache")
    if prepared.tokens_per_second is not None:
        engines = sorted({store.info["engine"] for store in prepared.stores})
        say(
            f"  {prepared.num_tokens:,} tokens in {format_duration(prepared.seconds)}, "
            f"{prepared.tokens_per_second:,.0f} tokens/s with {' and '.join(engines)}"
        )
