"""The token store: a mixture as ids and trained spans, the long conversations dropped or cut, all of it checked.

A store is a folder::

    train.arrow  held_out.arrow    one row a conversation; see tokens/table.py
    counts.json                    what became of every conversation, source by source
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from genesis_sft.console import progress, say
from genesis_sft.conversations.mixture import Mixture
from genesis_sft.errors import DataError
from genesis_sft.recipe import TokensSection
from genesis_sft.run_dir import write_json
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.table import TokenTable, store_schema
from genesis_sft.tokens.template import template_hash
from genesis_sft.tokens.writer import SourceCounts, StoreWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenStore", "TokenTable", "tokenize_mixture"]

STORE_VERSION = 1
TRAIN, HELD_OUT, COUNTS = "train.arrow", "held_out.arrow", "counts.json"


class TokenStore:
    """A folder of tokenised conversations.

    Attributes:
        path: The folder.
        train: Conversations to train on.
        held_out: Conversations that are never trained on.
        counts: What became of every conversation: table to source to counts; see ``counts.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.train = TokenTable(path / TRAIN)
        self.held_out = TokenTable(path / HELD_OUT)
        self.counts: dict[str, Any] = json.loads((path / COUNTS).read_text(encoding="utf-8"))

    def summary(self) -> str:
        """Return the store in one line."""
        train = self.counts["train"].values()
        tokens, trained = (sum(of[field] for of in train) for field in ("tokens", "trained_tokens"))
        dropped, cut = (sum(of[field] for of in train) for field in ("dropped_over_length", "cut"))
        parts = [f"{len(self.train):,} conversations, {tokens:,} tokens, {trained:,} trained ({trained / tokens:.1%})"]
        parts += [f"{dropped:,} too long"] if dropped else []
        parts += [f"{cut:,} cut"] if cut else []
        return "; ".join([*parts, f"{len(self.held_out):,} held out"])

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """Open a store that `tokenize_mixture` wrote.

        Raises:
            DataError: A file is missing or damaged.
        """
        path = Path(folder)
        if missing := [name for name in (TRAIN, HELD_OUT, COUNTS) if not (path / name).is_file()]:
            raise DataError(f"expected a token store in {path}, found no {', '.join(missing)}")
        try:
            return cls(path)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"expected a token store in {path}, found a damaged one: {error}") from None


def tokenize_mixture(
    section: TokensSection, mixture: Mixture, tokenizer: PreTrainedTokenizerBase, out: Path
) -> TokenStore:
    """Write the mixture as tokens to ``out``: train.arrow, held_out.arrow, counts.json.

    Args:
        section: What is trained on, how long a conversation may be.
        mixture: Conversations.
        tokenizer: A fast tokenizer that has the control tokens.
        out: Folder; until all is well nothing is in it.

    Raises:
        ModelError: The tokenizer lacks a control token, cannot keep text apart from control tokens, or merges the line
            break of a header with the text behind it. Training has not begun then.
        DataError: No conversation to train on is left.
    """
    encoder = ChatMLEncoder(tokenizer, section.train_on, section.reasoning)
    names = [source.name for source in mixture.ledger.sources]
    schema = store_schema(len(tokenizer), _metadata(section, tokenizer))
    work = out / ".unfinished"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        writer = StoreWriter(section, encoder, schema, names)
        total = mixture.ledger.kept + mixture.ledger.held_out
        with progress("tokenising", total, "conversations") as bar:
            train = writer.write(mixture.train(), work / TRAIN, bar)
            held_out = writer.write(mixture.held_out(), work / HELD_OUT, bar)
        _require_examples(train, section)
        write_json(work / COUNTS, {"train": _as_dict(train), "held_out": _as_dict(held_out)})
        for name in (TRAIN, HELD_OUT, COUNTS):
            (work / name).replace(out / name)
    finally:
        shutil.rmtree(work)
    say(f"  {writer.num_tokens:,} tokens at {writer.rate():,.0f} tokens/s")
    return TokenStore.open(out)


def _metadata(section: TokensSection, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    return {
        "genesis_sft.version": str(STORE_VERSION),
        "genesis_sft.template_sha256": template_hash(),
        "genesis_sft.tokenizer_sha256": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "genesis_sft.train_on": json.dumps(section.train_on),
        "genesis_sft.reasoning": section.reasoning,
    }


def _require_examples(train: dict[str, SourceCounts], section: TokensSection) -> None:
    if any(counts.examples for counts in train.values()):
        return
    dropped = sum(counts.dropped_over_length for counts in train.values())
    raise DataError(
        f"expected conversations of at most {section.max_length} tokens to train on, found none: {dropped} are longer",
        hint="Raise tokens.max_length, or set tokens.over_length to cut.",
    )


def _as_dict(counts: dict[str, SourceCounts]) -> dict[str, dict[str, int]]:
    return {name: asdict(of_source) for name, of_source in counts.items()}
