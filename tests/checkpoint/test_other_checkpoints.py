"""Promises of the conversion on checkpoints of other names, files and parts: they mean the same model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genesis_sft.checkpoint.convert import convert, diagnose_and_mend
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.opened import open_checkpoint
from tests.checkpoint.genesis.same import assert_computes_the_same, expected_logits
from tests.checkpoint.genesis.sections import Edit, State, fuse, load_state, save_edited, section_of, shift_rows
from tests.checkpoint.genesis.train import TinyGenesis

pytestmark = pytest.mark.slow


def opened_logits(tiny: TinyGenesis, model: Path, ids: torch.Tensor, **wrong: Any) -> torch.Tensor:
    """What a checkpoint means by what is stated of it."""
    opened = open_checkpoint(section_of(tiny, model, wrong=wrong))
    return logits(opened.stored, opened.stated, ids[None])[0]


def hf_names(state: State) -> State:
    """Names of transformers' Llama; the rows stay where they are."""
    names = {
        "tok_embeddings": "model.embed_tokens",
        "output": "lm_head",
        "norm": "model.norm",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }
    renamed: State = {}
    for name, tensor in state.items():
        layer, part = re.fullmatch(r"(?:layers\.(\d)\.)?(.*)\.weight", name).groups()
        part = f"self_attn.{part[-1]}_proj" if part.startswith("attention.w") else names[part]
        renamed[f"model.layers.{layer}.{part}.weight" if layer else f"{part}.weight"] = tensor
    return renamed


def fuse_gate_up(state: State) -> State:
    fused = {name: tensor for name, tensor in state.items() if "w1." not in name and "w3." not in name}
    for layer in range(3):
        root = f"layers.{layer}.feed_forward."
        fused[f"{root}gate_up_proj.weight"] = torch.cat([state[f"{root}w1.weight"], state[f"{root}w3.weight"]])
    return fused


@pytest.mark.parametrize(
    "edit",
    [hf_names, lambda state: fuse_gate_up(fuse(*"qkv")(state))],
    ids=["transformers' names", "fused"],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_files_and_names_mean_the_same(
    tiny_genesis: TinyGenesis, tmp_path: Path, edit: Edit, suffix: str
) -> None:
    model = save_edited(tiny_genesis, tmp_path / "x.pt", edit)
    if suffix == ".safetensors":
        model = tmp_path / "x.safetensors"
        save_file(edit(load_state(tiny_genesis)), model)
    ids = torch.tensor([1, *range(300, 340)])
    found = opened_logits(tiny_genesis, model, ids)
    torch.testing.assert_close(found, expected_logits(tiny_genesis, ids), atol=1e-4, rtol=0)


def test_a_state_dict_of_fused_matrices_is_exported_rightly(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    model = save_edited(tiny_genesis, tmp_path / "x.pt", lambda state: fuse_gate_up(fuse(*"qkv")(state)))
    convert(section_of(tiny_genesis, model), tmp_path / "model")
    assert_computes_the_same(tiny_genesis, tmp_path / "model")


def test_biases_on_three_of_four_projections_are_kept(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    """As Qwen2 has them. transformers' Llama has a switch for all four: the fourth is zero."""

    def add(state: State) -> State:
        generator = torch.Generator().manual_seed(1)
        for layer in range(3):
            for part, width in {"wq": 64, "wk": 32, "wv": 32}.items():
                state[f"layers.{layer}.attention.{part}.bias"] = 0.05 * torch.randn(width, generator=generator)
        return state

    model = save_edited(tiny_genesis, tmp_path / "x.pt", add)
    ids = torch.tensor([1, *range(300, 340)])
    meant = opened_logits(tiny_genesis, model, ids)
    assert float((meant - expected_logits(tiny_genesis, ids)).abs().max()) > 0.1  # the biases do something
    converted = convert(section_of(tiny_genesis, model), tmp_path / "model")
    weights = load_file(converted.model.path / "model.safetensors")
    assert not weights["model.layers.0.self_attn.o_proj.bias"].any()
    with torch.no_grad():
        found = converted.model.load_model()(input_ids=ids[None]).logits[0]
    torch.testing.assert_close(found, meant, atol=1e-4, rtol=0)


def test_a_factor_on_a_tied_embedding_is_folded_into_an_untied_export(
    tiny_genesis_tied: TinyGenesis, tmp_path: Path
) -> None:
    """The weights are a tenth of what they were, and a factor of 10 is stated: the embedding's output is as it was."""

    def shrink(state: State) -> State:
        return {name: t / 10 if name in ("tok_embeddings.weight", "output.weight") else t for name, t in state.items()}

    model = save_edited(tiny_genesis_tied, tmp_path / "x.pt", shrink)
    converted = convert(
        section_of(tiny_genesis_tied, model, wrong={"embedding_scale": 10.0}, verify="warn"), tmp_path / "model"
    )
    assert converted.model.config["tie_word_embeddings"] is False
    ids = torch.tensor([1, *range(300, 340)])
    with torch.no_grad():
        found = converted.model.load_model()(input_ids=ids[None]).logits[0]
    torch.testing.assert_close(found, expected_logits(tiny_genesis_tied, ids) / 10, atol=1e-4, rtol=0)


def test_a_correction_writes_rows_by_id(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    model = save_edited(tiny_genesis, tmp_path / "x.pt", shift_rows(1))
    found = diagnose_and_mend(section_of(tiny_genesis, model), tmp_path / "model")
    assert found.conventions.id_offset == 1
    assert_computes_the_same(tiny_genesis, tmp_path / "model")
