"""Promises of the base stage on a pretraining checkpoint, and on a folder whose rows somebody put in another order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genesis_sft.checkpoint.base import base_identity, prepare_base
from genesis_sft.checkpoint.convert import Converted
from genesis_sft.checkpoint.llama.hf_layout import half_split_order
from genesis_sft.errors import CheckFailed, ModelError
from genesis_sft.recipe import BaseSection, load_recipe
from tests.checkpoint.genesis.sections import load_state, section_of
from tests.checkpoint.genesis.train import TinyGenesis


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.slow
def test_a_checkpoint_is_converted_and_given_the_control_tokens(tiny_genesis: TinyGenesis, out: Path) -> None:
    result = prepare_base(section_of(tiny_genesis, wrong={"rope_layout": None}, training_loss=0.6), out)
    assert result.verdict == "predicts text"
    assert result.added_tokens == ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    assert sorted(path.name for path in out.iterdir()) == ["check.json", "model"]
    check = json.loads((out / "check.json").read_text())
    assert check["added_tokens"] == {"<|im_start|>": 576, "<|im_end|>": 577, "<think>": 578, "</think>": 579}
    assert check["parity"]["max_abs_delta_logit"] < 1e-4
    assert check["parity"]["holds"] is True
    assert check["causes"] == []
    assert check["conventions_tried"] > 10
    ids = torch.tensor([1, *range(300, 340)])
    with torch.no_grad():
        expected = tiny_genesis.model(ids[None])[0]
        found = result.model.load_model()(input_ids=ids[None]).logits[0, :, :576]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_checkpoint_that_is_stated_wrongly_stops_or_warns(
    tiny_genesis: TinyGenesis, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"rope_layout": "half_split"}
    with pytest.raises(CheckFailed, match="RoPE layout: query and key rows are interleaved"):
        prepare_base(section_of(tiny_genesis, wrong=wrong), out)
    assert not (out / "model").exists()
    assert not list(out.glob(".converted-*"))
    prepare_base(section_of(tiny_genesis, wrong=wrong, verify="warn"), out)
    assert "RoPE layout: query and key rows are interleaved" in capsys.readouterr().err
    assert json.loads((out / "check.json").read_text())["causes"]
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_folder_with_rows_in_the_interleaved_order_is_refused_with_the_cause(
    tiny_genesis: TinyGenesis, genesis_converted: Converted, tmp_path: Path, out: Path
) -> None:
    """What a converter that only renames leaves behind: shapes and names are right."""
    folder = Path(shutil.copytree(genesis_converted.model.path, tmp_path / "renamed"))
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if ".q_proj." in name or ".k_proj." in name:
            restored = torch.empty_like(tensor)
            restored[half_split_order(len(tensor) // 16, 16)] = tensor
            weights[name] = restored
    assert torch.equal(
        weights["model.layers.0.self_attn.q_proj.weight"], load_state(tiny_genesis)["layers.0.attention.wq.weight"]
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    section = BaseSection(model=str(folder), text=tuple(map(str, tiny_genesis.held_out_text)))
    with pytest.raises(CheckFailed) as caught:
        prepare_base(section, out)
    assert "RoPE layout: query and key rows are interleaved, and were taken as half-split" in str(caught.value)
    assert "genesis-sft base diagnose" in str(caught.value.hint)
    assert [path.name for path in out.iterdir()] == ["check.json"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A checkpoint and what a recipe may name beside it; identities read bytes only."""
    place = tmp_path / "place"
    (place / "dcp").mkdir(parents=True)
    for name in (
        "dcp/.metadata",
        "dcp/__0_0.distcp",
        "dcp/__1_0.distcp",
        "t.model",
        "train.yaml",
        "names.yaml",
        "a.txt",
    ):
        (place / name).write_text(name)
    return place


def section_at(place: Path) -> BaseSection:
    return BaseSection(
        model=str(place / "dcp"),
        tokenizer=str(place / "t.model"),
        config=str(place / "train.yaml"),
        names=str(place / "names.yaml"),
        text=(str(place / "a.txt"),),
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("dcp/.metadata", ".metadata"),
        ("dcp/__1_0.distcp", "__1_0.distcp"),
        ("t.model", "tokenizer"),
        ("train.yaml", "config file"),
        ("names.yaml", "names file"),
        ("a.txt", "text 0"),
    ],
)
def test_the_identity_of_a_checkpoint_follows_each_file(files: Path, name: str, key: str) -> None:
    before = base_identity(section_at(files))
    (files / "dcp" / "README.md").write_text("not relevant")
    assert base_identity(section_at(files)) == before
    (files / name).write_text("changed")
    after = base_identity(section_at(files))
    assert before.keys() == after.keys()
    assert {place for place in after if after[place] != before[place]} == {key}


def test_the_identity_of_a_checkpoint_stays_when_it_is_moved(files: Path, tmp_path: Path) -> None:
    before = base_identity(section_at(files))
    moved = files.rename(tmp_path / "elsewhere")
    assert base_identity(section_at(moved)) == before


@pytest.mark.parametrize("name", ["t.model", "train.yaml", "names.yaml", "a.txt"])
def test_a_file_that_is_named_and_missing_is_said_before_anything_runs(files: Path, name: str) -> None:
    (files / name).unlink()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        base_identity(section_at(files))


def test_paths_in_a_recipe_are_seen_from_its_folder(tmp_path: Path) -> None:
    recipe = tmp_path / "recipes" / "r.yaml"
    recipe.parent.mkdir()
    recipe.write_text(
        "name: r\n"
        "base: {model: ../dcp, tokenizer: ../t.model, config: train.yaml, names: names.yaml, text: [a.txt, ../b.txt]}\n"
        "evals: {chat_prompts: 0}\n"
        "data: {sources: [{name: a, path: a.jsonl}]}\n"
        "training: {batch: {sequences: 2}}\n"
    )
    base = load_recipe(recipe).base
    assert base.model == str(tmp_path / "dcp")
    assert base.tokenizer == str(tmp_path / "t.model")
    assert base.config == str(tmp_path / "recipes" / "train.yaml")
    assert base.names == str(tmp_path / "recipes" / "names.yaml")
    assert base.text == (str(tmp_path / "recipes" / "a.txt"), str(tmp_path / "b.txt"))
