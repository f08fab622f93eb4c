"""A tiny base with control tokens and a token store of made-up conversations."""

import json
from pathlib import Path

import pytest

from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.mixture.prepare import prepare_data
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BaseSection, DataSection, SourceSection, TokensSection


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with ``base/`` and ``data/`` as the pipeline leaves them."""
    folder = tmp_path_factory.mktemp("tiny-run")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {number} plus {number}?"},
                {"role": "assistant", "content": "It is " + "quite exactly " * (number % 5) + str(2 * number)},
            ]
        }
        for number in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("base", "data"):
        (folder / name).mkdir()
    base = prepare_base(BaseSection(model=str(tiny_folder), verify="warn"), folder / "base").model
    source = SourceSection(name="sums", path=str(folder / "rows.jsonl"))
    data = DataSection(sources=(source,), held_out=0.2)
    prepare_data(data, TokensSection(), 0, base.load_tokenizer(), (), folder / "data")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_run: Path) -> ModelDir:
    return ModelDir.open(tiny_run / "base" / "model")


@pytest.fixture(scope="session")
def tiny_store(tiny_run: Path) -> TokenStore:
    return TokenStore.open(tiny_run / "data")
