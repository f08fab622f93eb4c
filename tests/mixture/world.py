"""Sources as the mixture sees them, written by hand: a conversation is a list of message lengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genesis_sft.mixture.build import build_mixture
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import DataSection, SourceSection, TokensSection

IM_END, NEWLINE = 1, 2
FRAME = 2  # tokens that end a message: IM_END and NEWLINE


class Question(NamedTuple):
    task: str
    doc_id: int
    text: str = ""


@dataclass
class Talk:
    """A conversation: lengths of its messages in tokens, the end of the message included, at least 3.

    In a trained message the text and the end are labels: one token fewer than its length less the header token.
    """

    lengths: Sequence[int]
    bucket: int = 9_999
    same_as: str = ""  # equal words are equal digests
    trained: Sequence[bool] = ()  # by assistant message; all when empty
    resembles: int = 0  # equal numbers above 0 have equal signatures

    def ids(self, seed: int) -> list[int]:
        ids: list[int] = []
        for number, length in enumerate(self.lengths):
            text = [10 + (seed * 31 + number * 7 + place) % 90 for place in range(length - FRAME)]
            ids += [*text, IM_END, NEWLINE]
        return ids

    def spans(self) -> list[tuple[int, int]]:
        has_system, spans, start = len(self.lengths) % 2, [], 0
        for number, length in enumerate(self.lengths):
            turn, is_user = divmod(number - has_system, 2)
            if number >= has_system and is_user == 1 and (not self.trained or self.trained[turn]):
                spans.append((start + 1, start + length - 1))
            start += length
        return spans


class FakeStore:
    """What `SourceStore` is to the mixture."""

    def __init__(self, name: str, talks: Sequence[Talk], rejected: dict[str, int] | None = None) -> None:
        self.name, self.talks, self.path = name, talks, Path("nowhere")
        self._rejected = rejected or {}
        gap = sum(self._rejected.values())  # the rejected rows come first
        self._ids = [np.array(talk.ids(place), np.int64) for place, talk in enumerate(talks)]
        self.rows = np.arange(len(talks), dtype=np.int64) + gap
        self.buckets = np.array([talk.bucket for talk in talks], np.int64)
        self.num_tokens = np.array([len(ids) for ids in self._ids], np.int64)
        self.num_trained = np.array([sum(b - a for a, b in talk.spans()) for talk in talks], np.int64)
        digests = [
            hashlib.blake2b((talk.same_as or f"{name}{place}").encode(), digest_size=16).digest()
            for place, talk in enumerate(talks)
        ]
        self.digests = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
        self.found: list[tuple[int, int]] | None = None
        self.info: dict[str, Any] = {
            "origin": f"{name}.jsonl",
            "format": "messages",
            "files": [{"name": f"{name}.jsonl", "sha256": name * 2, "first_row": 0, "rows": gap + len(talks)}],
            "rows_read": gap + len(talks),
            "rejected": self._rejected,
            "repaired": {},
            "engine": "tokie",
            "key": f"key of {name}",
            "parts": 0,  # files; what it holds is in memory
        }

    def __len__(self) -> int:
        return len(self.talks)

    def ids(self, position: int) -> Any:
        return self._ids[position]

    def spans(self, position: int) -> list[tuple[int, int]]:
        return self.talks[position].spans()

    def signatures(self) -> Any:
        rows = [
            [talk.resembles] * 128 if talk.resembles else np.frombuffer(own.digest(512), np.uint32)
            for place, talk in enumerate(self.talks)
            for own in [hashlib.shake_128(f"{self.name}{place}".encode())]
        ]
        return np.array(rows, np.uint32).reshape(-1, 128)

    def overlaps(self) -> list[tuple[int, int]] | None:
        return self.found

    def rejects(self) -> Any:
        rows = [reason for reason, count in self._rejected.items() for _ in range(count)]
        return ({"source": self.name, "row": row, "reason": reason} for row, reason in enumerate(rows))

    def samples(self) -> Any:
        return iter(())


def section(name: str, **fields: Any) -> SourceSection:
    return SourceSection(name=name, path=f"{name}.jsonl", **fields)


def mix(
    out: Path,
    stores: Sequence[FakeStore],
    sections: Sequence[SourceSection] = (),
    *,
    seed: int = 0,
    questions: Sequence[Question] = (),
    max_length: int = 1000,
    over_length: str = "drop",
    **data: Any,
) -> TokenStore:
    """Build a mixture of stores; a source without a section is taken whole."""
    known = {one.name: one for one in sections}
    sources = tuple(known.get(store.name, section(store.name)) for store in stores)
    tokens = TokensSection(max_length=max_length, over_length=over_length)  # type: ignore[arg-type]
    arguments: Any = (seed, stores, questions, IM_END, 1, out)
    return build_mixture(DataSection(sources=sources, **data), tokens, *arguments)


def places(store: TokenStore, side: str = "train") -> list[tuple[str, int]]:
    """Source and row of each example."""
    table = getattr(store, side)
    return [(table.source(index), table.row(index)) for index in range(len(table))]


def dropped(store: TokenStore) -> list[tuple[str, int, str]]:
    """Source, row and reason of each line of dropped.jsonl."""
    lines = (store.path / "dropped.jsonl").read_text().splitlines()
    return [tuple(json.loads(line).values()) for line in lines]  # type: ignore[misc]
