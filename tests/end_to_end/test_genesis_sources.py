"""The mixture of the shipped Genesis recipe, prepared from rows as the five sources really lay them out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from transformers import PreTrainedTokenizerFast

from genesis_sft.conversations.contamination import Question
from genesis_sft.mixture.prepare import prepare_data
from genesis_sft.mixture.store import TokenStore
from genesis_sft.mixture.verify import verify
from genesis_sft.recipe import DataSection, load_recipe
from genesis_sft.tokens.chatml import ChatMLEncoder
from tests.tokens.helpers import with_control_tokens

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
ASKED = "Which of these birds stands on one leg in shallow water for hours before it strikes at a fish"


def constitutional(number: int) -> dict[str, Any]:
    answer = {"role": "assistant", "content": f"Honestly: {number}.", "reasoning": f"They want {number}."}
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Count me {number}"}, answer]
    return {"id": f"c-{number}", "area": "honesty", "principles": ["honest"], "messages": messages}


def smoltalk(number: int) -> dict[str, Any]:
    turns = [
        {"content": "You are an AI assistant.", "role": "system"},
        {"content": f"Plan trip {number}, please.", "role": "user"},
        {"content": f"Trip {number}: go by train.", "role": "assistant"},
        {"content": "And back?", "role": "user"},
        {"content": "By ferry.\n", "role": "assistant"},
    ]
    return {
        "messages": turns,
        "category": "planning",
        "difficulty": "easy",
        "quality": "good",
        "reward_model_score": 0.13,
        "conversation_tokens": 612,
    }


def openhermes(number: int) -> dict[str, Any]:
    return {
        "system_prompt": "Answer briefly." if number % 4 == 0 else None,
        "conversations": [
            {"from": "human", "value": f"Leaves of tree {number}?", "weight": None},
            {"from": "gpt", "value": f"It drops {7 * number} leaves.", "weight": None},
        ],
        "source": "airoboros2.2",
        "category": "general",
        "language": None,
        "idx": None,
        "skip_prompt_formatting": False,
    }


def tulu(number: int) -> dict[str, Any]:
    messages = [
        {"content": ASKED if number == 5 else f"Translate the number {number}", "role": "user"},
        {"content": f"Nummer {number}.", "role": "assistant"},
    ]
    return {"id": f"tulu_v3.9_{number}", "messages": messages, "source": "ai2-adapt-dev/tulu_v3.9_aya_100k"}


def metamath(number: int) -> dict[str, Any]:
    return {
        "type": "MATH_AnsAug",
        "query": f"Solve for x: x + {number} = {2 * number}.",
        "original_question": f"Solve x + {number} = {2 * number}",
        "response": f"Subtract {number}.\n#### {number}\nThe answer is: {number}",
    }


def write_sources(folder: Path) -> dict[str, Path]:
    """Write 40 rows of each source, in the kind of file that it is published as."""
    rows = {make.__name__: [make(number) for number in range(1, 41)] for make in SOURCES}
    paths = {name: folder / f"{name}{ending}" for name, ending in ENDINGS.items()}
    for name, path in paths.items():
        if path.suffix == ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows[name]), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows[name], indent=1))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
    return paths


SOURCES = (constitutional, smoltalk, openhermes, tulu, metamath)
ENDINGS = {
    "constitutional": ".jsonl",
    "smoltalk": ".parquet",
    "openhermes": ".json",
    "tulu": ".parquet",
    "metamath": ".json",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_control_tokens(tiny_tokenizer)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> TokenStore:
    folder = tmp_path_factory.mktemp("genesis-sources")
    paths = write_sources(folder)
    recipe = load_recipe(RECIPES / "genesis-1b-sft.yaml")
    of_copies = {"hub": None, "config": None, "revision": None}
    sources = tuple(
        source.model_copy(update=of_copies | {"path": str(paths[source.name]), "take": source.take and 30})
        for source in recipe.data.sources
    )
    # 40 made-up rows of a source differ by a number: they all resemble each other
    data = DataSection.model_validate({**dict(recipe.data), "sources": sources, "near_duplicates": None})
    questions = [Question("birds", 3, ASKED)]
    (folder / "data").mkdir()
    return prepare_data(data, recipe.tokens, recipe.seed, tokenizer, questions, folder / "data")[0]


def test_every_row_of_every_source_is_accounted_for(store: TokenStore) -> None:
    verify(store)
    ledger = store.ledger
    assert [source.name for source in ledger.sources] == [make.__name__ for make in SOURCES]
    for source in ledger.sources:
        assert source.rows_read == 40
        assert source.rejected == {}
        assert source.contaminated == (source.name == "tulu")
        left = 40 - source.contaminated - source.held_out
        assert source.kept == (left if source.name == "constitutional" else min(30, left))
    assert json.loads((store.path / "touched.json").read_text()) == {"birds": [3]}
    assert Counter(map(store.train.source, range(len(store.train)))) == {
        source.name: source.kept for source in ledger.sources
    }


def test_every_example_is_its_row_as_the_encoder_gives_it(
    store: TokenStore, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoder, texts = ChatMLEncoder(tokenizer), {make.__name__: make for make in SOURCES}
    for index in range(len(store.train)):
        row = texts[store.train.source(index)](store.train.row(index) + 1)
        shown = encoder.decode(store.train.input_ids(index).tolist(), show_special=True)
        assert shown == expected_text(store.train.source(index), row)
        for start, stop in store.train.trained(index):
            assert store.train.input_ids(index)[stop - 1] == encoder.im_end_id
            assert shown.count("<|im_end|>") > 1
            assert start < stop


def expected_text(source: str, row: dict[str, Any]) -> str:
    if source == "metamath":
        turns = [("user", row["query"]), ("assistant", row["response"])]
    elif source == "openhermes":
        turns = [("system", row["system_prompt"])] if row["system_prompt"] else []
        turns += [("user" if turn["from"] == "human" else "assistant", turn["value"]) for turn in row["conversations"]]
    else:
        turns = [(turn["role"], _with_reasoning(turn)) for turn in row["messages"]]
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)


def _with_reasoning(turn: dict[str, str]) -> str:
    thought = f"<think>\n{turn['reasoning']}\n</think>\n\n" if "reasoning" in turn else ""
    return thought + turn["content"]
