"""Promises of the export: whatever the conventions, transformers computes from it what the checkpoint means."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.llama.hf_layout import half_split_order, hf_config, hf_tensors
from tests.checkpoint.llama.random_llamas import Shape, as_stored, exported, random_state, usual

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])


def test_neighbours_become_halves() -> None:
    assert half_split_order(1, 6) == [0, 2, 4, 1, 3, 5]
    assert half_split_order(2, 4) == [0, 2, 1, 3, 4, 6, 5, 7]


@st.composite
def conventions_of(draw: st.DrawFn) -> tuple[Shape, Conventions, bool, tuple[str, ...], str]:
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3]))
    head_size = draw(st.sampled_from([2, 4, 6]))
    hidden = heads * draw(st.sampled_from([1, 5, head_size]))  # transformers takes multiples of the heads only
    shape = Shape(heads, kv_heads, head_size, hidden, ffn=draw(st.sampled_from([7, 24, hidden])), rows=11)
    has_head = draw(st.booleans())
    fused = draw(st.sampled_from(["", "blocks", "groups"]))
    conventions = usual(
        shape,
        rope_layout=draw(st.sampled_from(["interleaved", "half_split"])),
        rope_theta=draw(st.sampled_from([10.0, 10_000.0, 500_000.0])),
        norm_eps=draw(st.sampled_from([1e-8, 1e-5, 1e-2])),
        head=draw(st.sampled_from(["own", "embedding"])) if has_head else "embedding",
        embedding_scale=draw(st.sampled_from([1.0, 4.0, math.sqrt(hidden)])),
        gate_up_swapped=draw(st.booleans()),
        qk_swapped=heads == kv_heads and not fused and draw(st.booleans()),
        fused_order=draw(st.sampled_from(["qkv", "kqv", "vkq", "qvk"])),
        fused_grouping=fused or "blocks",
        transposed=frozenset(draw(st.sets(st.sampled_from(["o", "gate", "up"]))))
        if _all_square(shape)
        else frozenset(),
        id_offset=draw(st.sampled_from([-1, 0, 1])),
    )
    biased = draw(st.sampled_from([(), ("wq", "wk", "wv"), ("wq",), ("wo", "w2"), ("w1", "w3")]))
    return shape, conventions, has_head, () if fused and biased == ("wq",) else biased, fused


def _all_square(shape: Shape) -> bool:
    return shape.heads * shape.head_size == shape.hidden == shape.ffn


def fuse(state: dict[str, torch.Tensor], order: str, groups: int) -> dict[str, torch.Tensor]:
    """Query, key and value in one matrix, in turn, once for each of ``groups``; biases alike."""
    fused = {name: t for name, t in state.items() if not any(f".w{part}." in name for part in "qkv")}
    for name in [name for name in state if ".wq." in name]:
        parts = [state[name.replace(".wq.", f".w{part}.")].chunk(groups) for part in order]
        fused[name.replace(".wq.", ".wqkv.")] = torch.cat(
            [piece for group in zip(*parts, strict=True) for piece in group]
        )
    return fused


@given(conventions_of())
@settings(max_examples=60, deadline=None)
def test_transformers_computes_from_an_export_what_the_checkpoint_means(given_: Any) -> None:
    shape, conventions, has_head, biased, fused = given_
    state = random_state(shape, head=has_head, biased=biased)
    if fused:
        state = fuse(state, conventions.fused_order, shape.kv_heads if fused == "groups" else 1)
    stored = as_stored(state)
    expected = logits(stored, conventions, IDS)
    with torch.no_grad():
        found = exported(stored, conventions)(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, atol=2e-4 * max(1.0, float(expected.abs().max())), rtol=1e-4)


def test_a_bias_goes_with_the_matrix_that_was_swapped() -> None:
    shape = Shape(heads=2, kv_heads=2)
    stored = as_stored(random_state(shape, biased=("wq",)))
    tensors = dict(hf_tensors(stored, usual(shape, qk_swapped=True)))
    assert tensors["model.layers.0.self_attn.k_proj.bias"].any()
    assert not tensors["model.layers.0.self_attn.q_proj.bias"].any()


def test_the_names_and_their_number_are_transformers_own() -> None:
    shape = Shape()
    tensors = dict(hf_tensors(as_stored(random_state(shape, biased=("wq",))), usual(shape)))
    assert len(tensors) == 3 + 2 * (9 + 4)
    assert tensors["model.layers.1.self_attn.k_proj.bias"].tolist() == [0.0] * 16
    assert tensors["model.layers.1.self_attn.q_proj.bias"].any()


def test_the_config_says_what_shapes_and_conventions_say() -> None:
    shape = Shape(heads=6, kv_heads=2, head_size=8, hidden=24, ffn=40, layers=2, rows=30)
    config = hf_config(as_stored(random_state(shape)).sizes, usual(shape, rope_theta=5e5), context=96, dtype="bfloat16")
    assert config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 30,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 96,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "bfloat16",
    }


@pytest.mark.parametrize(("scale", "tied"), [(1.0, True), (8.0, False)])
def test_only_an_unscaled_embedding_can_be_the_head_as_well(scale: float, tied: bool) -> None:
    shape = Shape()
    stored = as_stored(random_state(shape, head=False))
    conventions = usual(shape, head="embedding", embedding_scale=scale)
    tensors = dict(hf_tensors(stored, conventions))
    assert ("lm_head.weight" in tensors) is not tied
    assert hf_config(stored.sizes, conventions, context=8, dtype="float32")["tie_word_embeddings"] is tied
    assert torch.equal(tensors["model.embed_tokens.weight"], stored.get(conventions, "embedding") * scale)
