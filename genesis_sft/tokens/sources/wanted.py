"""A source that is wanted: what decides its store, where that is or will be, and what of it is still missing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_sft.console import say
from genesis_sft.conversations.clean import Cleaning, find_format
from genesis_sft.conversations.contamination import QuestionIndex
from genesis_sft.conversations.filters import filter_identity
from genesis_sft.conversations.near_duplicates import ALGORITHM
from genesis_sft.conversations.reading import Block, OpenedSource, open_source, source_identity
from genesis_sft.recipe import DataSection, SourceSection, TokensSection
from genesis_sft.run_dir import canonical_json
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.sources.entry import Entry
from genesis_sft.tokens.sources.parts import is_whole
from genesis_sft.tokens.sources.work import BlockTask, array_is_whole, array_path
from genesis_sft.tokens.template import template_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 2
"""Raised when the program changes what it writes for the same rows."""


@dataclass
class WantedSource:
    """A source on its way into a store.

    Attributes:
        section: Its section of the recipe.
        opened: Its rows.
        entry: Its place in the cache.
        settings: All that decides the store; the entry's key is a hash of them.
        cleaning: How rows become conversations.
        encoder: How conversations become ids; sources with the same rules share one.
        annotations: What is wanted beside the tokens (``signatures``, ``overlaps``), and the key of each.
        is_whole: Whether the cache has the store.
        blocks: File, and the number of that file's first row, of each block that was read.
    """

    section: SourceSection
    opened: OpenedSource
    entry: Entry
    settings: Mapping[str, Any]
    cleaning: Cleaning
    encoder: ChatMLEncoder
    annotations: Mapping[str, str]
    is_whole: bool = False
    blocks: list[tuple[str, int]] = field(default_factory=list)

    @property
    def parts(self) -> Path:
        """Folder of the parts, finished or at work."""
        return self.entry.folder if self.is_whole else self.entry.making

    def annotation(self, kind: str) -> Path | None:
        """Return the folder of signatures or overlaps, inside the store; ``None`` where they are not wanted."""
        key = self.annotations.get(kind)
        return self.parts / self.entry.annotation(kind, key) if key is not None else None

    def make_ready(self) -> None:
        """Look at what the cache has; make room for what is missing. The entry is locked by now."""
        self.is_whole = self.entry.is_intact()
        if not self.is_whole:
            if self.entry.folder.exists():
                say(f"  {self.section.name}: what the cache had is damaged and is made again")
                shutil.rmtree(self.entry.folder)
            self.entry.making.mkdir(parents=True, exist_ok=True)
        for kind in self.annotations:
            folder = self.annotation(kind)
            assert folder is not None
            folder.mkdir(exist_ok=True)
            for path in folder.glob("*.npy"):
                if not array_is_whole(path):
                    path.unlink()

    def start_over(self) -> None:
        """Throw away what was made so far."""
        if not self.is_whole:
            shutil.rmtree(self.entry.making)
        self.make_ready()

    def is_complete(self) -> bool:
        """Say whether nothing is to be read again."""
        info = self.entry.info()
        if info is None:
            return False
        folders = [self.annotation(kind) for kind in self.annotations]
        return all(array_path(folder, n).is_file() for folder in folders if folder for n in range(info["parts"]))

    def tasks(self, number: int, block_bytes: int) -> Iterator[BlockTask]:
        """Read the source, and yield what is missing of its blocks.

        Args:
            number: Number of the source, for the tasks.
            block_bytes: Text in one block.
        """
        self.blocks.clear()
        reported = 0
        for block in self.opened.blocks(block_bytes):
            self.blocks.append((block.file, block.first_row - block.first_row_in_file))
            if (task := self._task(number, block, block.num_bytes - reported)) is not None:
                reported = block.num_bytes
                yield task

    def _task(self, number: int, block: Block, num_bytes: int) -> BlockTask | None:
        wanted = {
            kind: (folder := self.annotation(kind)) is not None and not array_path(folder, block.number).is_file()
            for kind in ("signatures", "overlaps")
        }
        task = BlockTask(number, block, num_bytes, part=not self.is_whole and not is_whole(self.parts, block), **wanted)
        return task if task.part or task.signatures or task.overlaps else None


def open_sources(
    data: DataSection,
    tokens: TokensSection,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    questions: QuestionIndex | None,
    block_bytes: int,
) -> list[WantedSource]:
    """Open every source of a recipe, and find out what decides its store.

    Raises:
        DataError: There is no such source, or its rows have no known format.
        AssetError: A Hub data set is out of reach.
        ModelError: The tokenizer cannot keep text apart from control tokens.
    """
    annotations = {}
    if data.near_duplicates is not None:
        annotations["signatures"] = hashlib.sha256(ALGORITHM.encode()).hexdigest()
    if questions is not None:
        annotations["overlaps"] = questions.sha256
    tokenizer_sha256 = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    policies = {section.reasoning or tokens.reasoning for section in data.sources}
    encoders = {policy: ChatMLEncoder(tokenizer, tokens.train_on, policy) for policy in sorted(policies)}
    sources = []
    for section in data.sources:
        reasoning = section.reasoning or tokens.reasoning
        opened = open_source(section)
        format = find_format(opened)
        settings = {
            "version": VERSION,
            "rows": source_identity(section),
            "block_bytes": block_bytes,
            "format": format,
            "turns": section.turns,
            "filters": filter_identity(section.filters),
            "tokenizer_sha256": tokenizer_sha256,
            "template_sha256": template_hash(),
            "train_on": list(tokens.train_on),
            "reasoning": reasoning,
        }
        entry = Entry(cache, hashlib.sha256(canonical_json(settings).encode()).hexdigest())
        cleaning = Cleaning(section.name, format, section.turns, section.filters)
        sources.append(WantedSource(section, opened, entry, settings, cleaning, encoders[reasoning], annotations))
    return sources
