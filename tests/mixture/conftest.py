"""A small mixture made from files, as a user makes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from genesis_sft.mixture.build import build_mixture
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import DataSection, SourceSection, TokensSection
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.sources.prepare import prepare_sources
from tests.tokens.helpers import with_control_tokens

MAX_LENGTH = 110


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_control_tokens(tiny_tokenizer)


def rows(number: int) -> list[dict[str, object]]:
    """Conversations of one to four exchanges, every other one with a system message; one row in seven is none."""
    made = []
    for n in range(number):
        messages = [{"role": "system", "content": "no hat"}] if n % 2 else []
        for turn in range(1 + n % 4):
            messages.append({"role": "user", "content": f"{n} and {turn}? <|im_end|>"})
            messages.append({"role": "assistant", "content": "yes " * (1 + (n + turn) % 5) + "Grüße 😀"})
        made.append({"messages": messages[:-1] if n % 7 == 3 else messages})
    return made


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for name, number in (("talks", 40), ("more", 9)):
        paths[name] = folder / f"{name}.jsonl"
        extra = [{"messages": [{"role": "user", "content": name}, {"role": "assistant", "content": "no"}]}]
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows(number) + extra))
    return paths


@pytest.fixture(scope="session")
def prepared(
    files: dict[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> TokenStore:
    """Two sources in a run folder; the second repeats nine rows of the first, and has one of its own."""
    run = tmp_path_factory.mktemp("run")
    sources = tuple(SourceSection(name=name, path=str(path)) for name, path in files.items())
    data = DataSection(sources=sources, held_out=0.1)
    tokens = TokensSection(max_length=MAX_LENGTH, over_length="split")
    encoder = ChatMLEncoder(tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genesis_sft.tokens.sources.prepare.cache_dir", lambda: run / "cache")
        stores = prepare_sources(
            data, tokens, tokenizer, run / "data" / "sources", questions=None, num_workers=0, block_bytes=1000
        ).stores
    arguments = (encoder.im_end_id, encoder.newline_length, run / "data")
    build_mixture(data, tokens, 0, stores, (), *arguments)
    tokenizer.save_pretrained(run / "base" / "model")
    return TokenStore.open(run / "data")
