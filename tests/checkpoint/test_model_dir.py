"""Promises of a model folder: what is missing is named, what lies in it is never run, misfits are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import ModelError


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


class Bomb:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_whole_folder_opens_and_loads(folder: Path) -> None:
    model_dir = ModelDir.open(folder)
    assert model_dir.vocab_size == 400
    model = model_dir.load_model()
    assert not model.training
    assert model.dtype == torch.float32
    assert len(model_dir.load_tokenizer()) == 400
    assert model_dir.load_model(dtype="bfloat16").dtype == torch.bfloat16
    assert model_dir.load_model(attention="eager").config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"expected {name}") as caught:
        ModelDir.open(folder)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("The folder holds: ")


def test_nothing_at_all_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is nothing"):
        ModelDir.open(tmp_path / "none")


def test_a_sentencepiece_model_alone_is_no_model_folder_yet(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(ModelError, match=r"found tokenizer.model \(SentencePiece\) only"):
        ModelDir.open(folder)


def test_pickled_weights_alone_are_refused_with_a_way_to_convert(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin only, which is a pickle") as caught:
        ModelDir.open(folder)
    assert caught.value.hint is not None
    assert "save_pretrained" in caught.value.hint


def test_no_pickle_is_ever_opened(folder: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "adapter_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "opened")))
    model_dir = ModelDir.open(folder)
    model_dir.load_model()
    model_dir.load_tokenizer()
    assert not (tmp_path / "opened").exists()
    pickle.loads((folder / "optimizer.pt").read_bytes())  # noqa: S301 - shows that the bomb works
    assert (tmp_path / "opened").exists()


@pytest.mark.parametrize("shard", ["pytorch_model-1.bin", "../outside.safetensors", "gone.safetensors"])
def test_an_index_may_list_safetensors_of_its_own_folder_only(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "pytorch_model-1.bin").write_bytes(b"x")
    (folder.parent / "outside.safetensors").write_bytes(b"x")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="to list safetensors files of the same folder"):
        ModelDir.open(folder)


@pytest.mark.parametrize("weight_map", [[], None, {}, {"model.norm.weight": ["a.safetensors"]}])
def test_an_index_that_lists_no_files_is_refused(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match="to list safetensors files of the same folder"):
        ModelDir.open(folder)


def test_shards_with_an_index_load(folder: Path) -> None:
    whole = ModelDir.open(folder).load_model().state_dict()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {"a.safetensors": list(weights)[::2], "b.safetensors": list(weights)[1::2]}
    for file, names in halves.items():
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = ModelDir.open(folder).load_model().state_dict()
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)


def test_a_dcp_checkpoint_has_to_be_exported_first(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "opened")))
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(ModelError, match="is a PyTorch DCP checkpoint") as caught:
        ModelDir.open(tmp_path)
    assert caught.value.hint is not None
    assert "base convert" in caught.value.hint
    assert not (tmp_path / "opened").exists()


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter"):
        ModelDir.open(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "are quantised"),
        ({"transformers_weights": "other.safetensors"}, "redirects to other weight files"),
        ({"vocab_size": "many"}, "expected a whole number of at least 1 as vocab_size .*; found 'many'"),
        ({"vocab_size": True}, "as vocab_size .*; found True"),
        ({"vocab_size": None}, "expected a number vocab_size"),
        ({"max_position_embeddings": "512"}, "as max_position_embeddings .*; found '512'"),
        ({"max_position_embeddings": -5}, "as max_position_embeddings .*; found -5"),
        ({"rms_norm_eps": "1e-5"}, "expected a number as rms_norm_eps .*; found '1e-5'"),
        ({"initializer_range": None}, "expected a number as initializer_range .*; found None"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(folder: Path, values: dict[str, Any], expected: str) -> None:
    edit_config(folder, **values)
    with pytest.raises(ModelError, match=expected):
        ModelDir.open(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"num_attention_heads": 0}, "cannot be loaded: ZeroDivisionError"),
        ({"head_dim": "x"}, "cannot be loaded: .*head_dim.*expected int"),
        ({"model_type": []}, r"found model_type \[\], which transformers has no"),
        ({"architectures": 5, "hidden_act": "no"}, "cannot be loaded: KeyError: 'no'"),
    ],
)
def test_a_config_that_the_library_chokes_on_is_a_model_error(
    folder: Path, values: dict[str, Any], expected: str
) -> None:
    edit_config(folder, **values)
    with pytest.raises(ModelError, match=expected):
        ModelDir.open(folder).load_model()


@pytest.mark.parametrize("text", ["{'not': 'json'}", "[" * 100_000])
def test_a_config_that_is_no_json_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config.json cannot be read as JSON"):
        ModelDir.open(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_type": "t5"}, "model_type 't5', which transformers has no causal language model for"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "has no head that predicts the next token"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "m.M"}}, "it brings its own code, which is never run"),
    ],
)
def test_what_is_no_causal_language_model_is_refused_with_the_reason(
    folder: Path, values: dict[str, Any], expected: str
) -> None:
    edit_config(folder, **values)
    with pytest.raises(ModelError, match=expected):
        ModelDir.open(folder).load_model()


def test_a_missing_tensor_is_named_and_not_left_random(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.__delitem__("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"1 tensors are missing \(model.layers.1.mlp.up_proj.weight\)"):
        ModelDir.open(folder).load_model()


def test_a_head_that_is_said_to_be_untied_but_is_not_stored_is_refused(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"tensors are missing \(lm_head.weight\)"):
        ModelDir.open(folder).load_model()


def test_a_tensor_without_a_place_is_named_but_old_rope_buffers_are_fine(folder: Path) -> None:
    def add(name: str) -> None:
        edit_weights(folder, lambda weights: weights.update({name: torch.zeros(32)}))

    add("model.layers.0.self_attn.rotary_emb.inv_freq")
    ModelDir.open(folder).load_model()
    add("model.layers.0.self_attn.q_proj.bias")
    with pytest.raises(ModelError, match=r"1 have no place in it \(model.layers.0.self_attn.q_proj.bias\)"):
        ModelDir.open(folder).load_model()


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    edit_config(folder, intermediate_size=64)
    with pytest.raises(ModelError, match=r"have other shapes than its config.json describes$"):
        ModelDir.open(folder).load_model()


def test_damaged_files_are_model_errors(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match=r"tokenizer.json cannot be read"):
        ModelDir.open(folder).load_tokenizer()
    (folder / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(ModelError, match="cannot be loaded"):
        ModelDir.open(folder).load_model()


def test_a_tokenizer_without_vocabulary_is_refused(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"] |= {"vocab": {}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ModelError, match=r"expected a vocabulary in .*tokenizer.json; it is empty"):
        ModelDir.open(folder).load_tokenizer()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_content_hash_changes_with_every_part(folder: Path, name: str) -> None:
    before = ModelDir.open(folder).content_hash()
    assert ModelDir.open(folder).content_hash() == before
    with open(folder / name, "ab") as handle:
        handle.write(b" ")
    assert ModelDir(folder).content_hash() != before


def test_loading_writes_nothing_to_the_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model_dir = ModelDir.open(folder)
    model_dir.load_model()
    model_dir.load_tokenizer()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
