"""From sources to a mixture: what the data stage of a run does, and `data prepare` without a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genesis_sft.conversations.contamination import Question, QuestionIndex
from genesis_sft.errors import RecipeError
from genesis_sft.mixture.build import build_mixture
from genesis_sft.mixture.store import SOURCES, TokenStore
from genesis_sft.recipe import DataSection, TokensSection
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.sources.prepare import Prepared, prepare_sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_data(
    data: DataSection,
    tokens: TokensSection,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    out: Path,
) -> tuple[TokenStore, Prepared]:
    """Take sources to a store that can be trained on: ids of each source, and the index of what is taken of them.

    Args:
        data: Sources, and what is left out of them.
        tokens: What is trained on; how long an example may be.
        seed: Decides which conversations are taken.
        tokenizer: A fast tokenizer that has the control tokens.
        questions: Benchmark items to keep out.
        out: Folder to write to.

    Raises:
        DataError: A source cannot be read, or nothing is left to train on.
    """
    index = QuestionIndex(questions) if questions else None
    prepared = prepare_sources(data, tokens, tokenizer, out / SOURCES, questions=index)
    encoder = ChatMLEncoder(tokenizer, tokens.train_on)
    store = build_mixture(
        data, tokens, seed, prepared.stores, questions, encoder.im_end_id, encoder.newline_length, out
    )
    return store, prepared


def refuse_code(data: DataSection, allow_code: bool) -> None:
    """Stop before a recipe runs programs that nobody allowed.

    Raises:
        RecipeError: A source has filters, and they were not allowed.
    """
    named = [name for source in data.sources for name in source.filters]
    if named and not allow_code:
        raise RecipeError(
            f"the recipe wants to run functions of Python files: {', '.join(named)}",
            hint="Read them, and allow them with --allow-code, or take data.sources.N.filters out.",
        )
