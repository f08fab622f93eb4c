"""The mixture: conversations of all sources, cleaned, held out, sampled, and accounted for row by row.

::

    rows ──> conversations ──> no duplicates ──> train.jsonl       sampled to `take` by the seed
      └> rejects.jsonl                     └──> held_out.jsonl     by a hash of the first user message
                                                ledger.json        where every row went
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from genesis_sft.console import progress, say
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.ledger import Ledger, SourceLedger
from genesis_sft.conversations.sources import SourceReader, origin, source_identity
from genesis_sft.errors import DataError
from genesis_sft.recipe import DataSection, SourceSection
from genesis_sft.run_dir import write_json

TRAIN, HELD_OUT, LEDGER, REJECTS = "train.jsonl", "held_out.jsonl", "ledger.json", "rejects.jsonl"
_HELD_OUT_BUCKETS = 10_000


@dataclass(frozen=True)
class Mixture:
    """A mixture on disk.

    Attributes:
        path: Folder with train.jsonl, held_out.jsonl, ledger.json and rejects.jsonl.
    """

    path: Path

    @classmethod
    def open(cls, folder: str | Path) -> Mixture:
        """Open a mixture that `build_mixture` wrote.

        Raises:
            DataError: A file is missing.
        """
        path = Path(folder)
        if missing := [name for name in (TRAIN, HELD_OUT, LEDGER) if not (path / name).is_file()]:
            raise DataError(
                f"expected a mixture in {path}, found no {', '.join(missing)}",
                hint="The data stage of `genesis-sft train RECIPE` writes one, into the run folder.",
            )
        return cls(path)

    @cached_property
    def ledger(self) -> Ledger:
        """Where every row of every source went."""
        return Ledger.from_dict(json.loads((self.path / LEDGER).read_text(encoding="utf-8")))

    def summary(self) -> str:
        """Return the mixture in one line."""
        ledger = self.ledger
        return (
            f"{ledger.kept:,} conversations to train on, {ledger.held_out:,} held out, "
            f"of {ledger.rows_read:,} rows in {len(ledger.sources)} sources"
        )

    def train(self) -> Iterator[Conversation]:
        """Yield the conversations to train on: sources in the recipe's order, rows in their source's order."""
        return _read_conversations(self.path / TRAIN)

    def held_out(self) -> Iterator[Conversation]:
        """Yield the conversations that are never trained on, in the same order."""
        return _read_conversations(self.path / HELD_OUT)


def build_mixture(section: DataSection, seed: int, out: Path) -> Mixture:
    """Read all sources and write the mixture to ``out``.

    Args:
        section: Sources, held-out share.
        seed: Decides which conversations ``take`` takes; nothing else.
        out: Folder for train.jsonl, held_out.jsonl, ledger.json, rejects.jsonl; until all is well nothing is in it.

    Raises:
        DataError: A source cannot be read, a row is no conversation (where ``bad_rows`` is ``stop``), or none is left
            to train on.
        AssetError: A Hub data set is out of reach.
    """
    work = out / ".unfinished"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        ledger = _write_mixture(section, seed, work)
        if not ledger.kept:
            raise DataError(
                "expected conversations to train on, found none: " + " | ".join(s.line() for s in ledger.sources),
                hint="Give more sources, or a smaller held_out.",
            )
        write_json(work / LEDGER, ledger.to_dict())
        for name in (TRAIN, HELD_OUT, REJECTS, LEDGER):
            (work / name).replace(out / name)
    finally:
        shutil.rmtree(work)
    return Mixture.open(out)


def mixture_identity(section: DataSection) -> dict[str, str]:
    """Return what decides the rows of each source: source name to SHA-256 of its file, or pinned name on the Hub.

    Raises:
        DataError: A file is missing.
    """
    return {source.name: source_identity(source) for source in section.sources}


def is_held_out(conversation: Conversation, share: float) -> bool:
    """Say whether a conversation is kept back; depends on its first user message only.

    The first user message, its runs of white space made one space, stripped and lower-cased, is hashed (SHA-256); the
    first 8 hex digits as a number, modulo 10,000, are below ``share`` times 10,000. Conversations that begin with the
    same question therefore fall on the same side, whatever their source.
    """
    text = " ".join(conversation.first_user_text.split()).lower()
    bucket = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % _HELD_OUT_BUCKETS
    return bucket < round(share * _HELD_OUT_BUCKETS)  # rounded: 0.07 * 10_000 is 700.0000000000001


def choose(num_rows: int, take: int, seed: int, source: str) -> list[int]:
    """Return which of ``num_rows`` rows are taken, in ascending order.

    Every row draws a number, and the ``take`` smallest win: the draw goes over the whole source, does not depend on the
    other sources, and a larger ``take`` keeps what a smaller one has taken.
    """
    key = hashlib.sha256(f"{seed}:{source}".encode()).digest()
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(key))).random(num_rows)  # (num_rows,)
    winners = np.argsort(draw, kind="stable")[:take]
    return [int(row) for row in np.sort(winners)]


def _write_mixture(section: DataSection, seed: int, work: Path) -> Ledger:
    seen: set[bytes] = set()
    ledgers = []
    with (
        open(work / TRAIN, "w", encoding="utf-8", newline="\n") as train,
        open(work / HELD_OUT, "w", encoding="utf-8", newline="\n") as held_out,
        open(work / REJECTS, "w", encoding="utf-8", newline="\n") as rejects,
    ):
        for source in section.sources:
            writer = _SourceWriter(source, section.held_out, seen, held_out, rejects)
            with open(work / "candidates.jsonl", "w+", encoding="utf-8", newline="\n") as candidates:
                writer.read(candidates)
                ledger = writer.take(candidates, seed, train)
            say(f"  {ledger.line()}")
            ledgers.append(ledger)
    return Ledger(tuple(ledgers))


class _SourceWriter:
    """One source on its way into the mixture.

    Candidates for training go to a file of their own first: which of them are taken can only be drawn when it is known
    how many there are, and their text is not to be held in memory.
    """

    def __init__(
        self, section: SourceSection, share: float, seen: set[bytes], held_out: IO[str], rejects: IO[str]
    ) -> None:
        self._section, self._share, self._seen = section, share, seen
        self._held_out, self._rejects = held_out, rejects
        self._reader = SourceReader(section)
        self._rejected: Counter[str] = Counter()
        self._num_rows = self._num_duplicates = self._num_held_out = self._num_candidates = 0

    def read(self, candidates: IO[str]) -> None:
        """Sort every row of the source into rejects, duplicates, held out and candidates."""
        if self._reader.total == 0:
            place = self._section.path or origin(self._section)
            raise DataError(f"source {self._section.name}: expected rows in {place}, found none")
        with progress(f"reading {self._section.name}", self._reader.total, "rows") as bar:
            for row, found in self._reader:
                self._num_rows += 1
                if isinstance(found, BadRow):
                    self._reject(row, found)
                elif self._is_new(found):
                    self._sort(found, candidates)
                bar.advance()

    def take(self, candidates: IO[str], seed: int, train: IO[str]) -> SourceLedger:
        """Copy the candidates that are taken; return the source's ledger."""
        section, count = self._section, self._num_candidates
        taken = range(count) if section.take is None else choose(count, section.take, seed, section.name)
        wanted = iter([*taken, None])
        next_wanted = next(wanted)
        candidates.seek(0)
        for index, line in enumerate(candidates):
            if index == next_wanted:
                train.write(line)
                next_wanted = next(wanted)
        return SourceLedger(
            name=section.name,
            origin=origin(section),
            revision=section.revision,
            licence=section.licence,
            format=self._reader.format,
            sha256=source_identity(section),
            take=section.take,
            rows_read=self._num_rows,
            rejected=dict(sorted(self._rejected.items())),
            duplicates=self._num_duplicates,
            held_out=self._num_held_out,
            not_taken=count - len(taken),
            kept=len(taken),
        )

    def _reject(self, row: int, fault: BadRow) -> None:
        if self._section.bad_rows == "stop":
            hint = fault.hint or "Mend the row, or set bad_rows: reject for this source to leave such rows out."
            raise BadRow(fault.reason, str(fault), hint=hint)
        self._rejected[fault.reason] += 1
        reject = {"source": self._section.name, "row": row, "reason": fault.reason, "detail": str(fault)}
        self._rejects.write(_json_line(reject))

    def _is_new(self, conversation: Conversation) -> bool:
        digest = hashlib.sha256(repr(conversation.messages).encode()).digest()[:16]
        if digest in self._seen:
            self._num_duplicates += 1
            return False
        self._seen.add(digest)
        return True

    def _sort(self, conversation: Conversation, candidates: IO[str]) -> None:
        if is_held_out(conversation, self._share):
            self._num_held_out += 1
            self._held_out.write(conversation.to_json() + "\n")
        else:
            self._num_candidates += 1
            candidates.write(conversation.to_json() + "\n")


def _json_line(value: object) -> str:
    # a rejected row may hold what UTF-8 cannot: ASCII always can be written
    return json.dumps(value, ensure_ascii=True) + "\n"


def _read_conversations(path: Path) -> Iterator[Conversation]:
    with open(path, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield Conversation.from_json(line)
