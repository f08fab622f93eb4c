"""What a worker does with one block of rows: clean, encode, sign for near duplicates, look for benchmark items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genesis_sft.conversations.clean import Cleaning, clean
from genesis_sft.conversations.contamination import QuestionIndex
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.near_duplicates import signatures
from genesis_sft.conversations.reading import Block
from genesis_sft.run_dir import replacing
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.sources.parts import part_name, part_schema, sample, write_part


@dataclass(frozen=True)
class SourceTask:
    """What is to be made of the blocks of one source; the same for all of them.

    Attributes:
        cleaning: How rows become conversations.
        encoder: How conversations become ids; one that was proven in the main process.
        vocab_size: Length of the tokenizer.
        metadata: For the Arrow files.
        parts: Folder for the parts.
        signatures: Folder for MinHash signatures, if they are wanted.
        overlaps: Folder for benchmark items found, if they are wanted.
    """

    cleaning: Cleaning
    encoder: ChatMLEncoder
    vocab_size: int
    metadata: Mapping[str, str]
    parts: Path
    signatures: Path | None = None
    overlaps: Path | None = None


@dataclass(frozen=True)
class BlockTask:
    """One block, and what of its results is missing.

    Attributes:
        source: Number of the source.
        block: The rows.
        num_bytes: How much further the reading came with it, for the progress bar.
        part, signatures, overlaps: What is to be written.
    """

    source: int
    block: Block
    num_bytes: int
    part: bool
    signatures: bool
    overlaps: bool


@dataclass(frozen=True)
class Done:
    """What a worker answers.

    Attributes:
        source: Number of the source.
        num_tokens: Tokens that were encoded.
        differs: A text for which the fast tokenizer engine gave other ids than the reference; nothing was written then.
    """

    source: int
    num_tokens: int = 0
    differs: str | None = None


class Workshop:
    """Does tasks; lives in a worker process, or in the main process for small sources.

    Args:
        sources: What is to be made of each source.
        questions: Benchmark items to look for.
    """

    def __init__(self, sources: Sequence[SourceTask], questions: QuestionIndex | None) -> None:
        self._sources, self._questions = sources, questions
        self._schemas = [part_schema(source.vocab_size, source.metadata) for source in sources]

    def do(self, task: BlockTask) -> Done:
        """Write what is missing of a block."""
        source = self._sources[task.source]
        cleaned = clean(task.block, source.cleaning)
        number, num_tokens = task.block.number, 0
        if task.signatures:
            assert source.signatures is not None
            save_array(source.signatures, number, signatures(cleaned.conversations))
        if task.overlaps:
            assert source.overlaps is not None
            save_array(source.overlaps, number, self._overlaps(cleaned.conversations))
        if task.part:
            encoder = source.encoder
            if (differs := encoder.check_sample(sample(cleaned.conversations))) is not None:
                return Done(task.source, differs=differs)
            encoded = encoder.encode_block(cleaned.conversations)
            schema = self._schemas[task.source]
            num_tokens = write_part(source.parts, task.block, cleaned, encoded, schema)["tokens"]
        return Done(task.source, num_tokens)

    def _overlaps(self, conversations: Sequence[Conversation]) -> np.ndarray[Any, Any]:
        assert self._questions is not None
        return np.asarray(self._questions.overlaps(conversations), dtype=np.int64).reshape(-1, 2)


def save_array(folder: Path, number: int, array: np.ndarray[Any, Any]) -> None:
    """Write an array that belongs to a part, atomically."""
    with replacing(array_path(folder, number)) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def array_is_whole(path: Path) -> bool:
    """Say whether an array was written to its end."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def array_path(folder: Path, number: int) -> Path:
    """Return where the array of a part lies."""
    return folder / f"{part_name(number)}.npy"
