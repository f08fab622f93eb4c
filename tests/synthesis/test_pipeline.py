"""What was written is a source of a recipe like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from genesis_sft.conversations.formats import FORMATS, detect_format
from genesis_sft.conversations.reading import read_rows
from genesis_sft.recipe import load_recipe, load_synthesis
from tests.synthesis.command import ROOT, openai_recipe, rows, succeed
from tests.synthesis.conftest import StartServer


@pytest.mark.slow
def test_the_result_reads_as_a_source(tmp_path: Path, start_server: StartServer) -> None:
    succeed(openai_recipe(tmp_path, start_server(), conversations=12))
    path = tmp_path / "out" / "conversations.jsonl"
    kept = rows(path)
    assert kept
    for (_, row), written in zip(read_rows(path), kept, strict=True):
        messages = FORMATS[detect_format(row)](row)
        assert [(message.role, message.content, message.reasoning) for message in messages] == [
            (message["role"], message["content"], message.get("reasoning")) for message in written["messages"]
        ]
    assert any(message.get("reasoning") for row in kept for message in row["messages"])


def test_the_genesis_recipes_read_what_the_shipped_recipe_writes() -> None:
    out = Path(load_synthesis(ROOT / "recipes" / "synthesis.yaml").synthesis.out)
    for name in ("genesis-1b-sft", "genesis-1b-sft-v1"):
        sources = {source.name: source.path for source in load_recipe(ROOT / "recipes" / f"{name}.yaml").data.sources}
        assert sources["constitutional"] == str(out / "conversations.jsonl")


def test_the_shipped_recipe_screens_against_the_benchmarks_it_is_measured_by() -> None:
    recipe = load_recipe(ROOT / "recipes" / "genesis-1b-sft.yaml")
    synthesis = load_synthesis(ROOT / "recipes" / "synthesis.yaml")
    assert {task.task for task in synthesis.evals.tasks} == {task.task for task in recipe.evals.tasks}
