"""Promises of the plain forward pass: it computes what transformers' Llama does, by whichever conventions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.forward import logits, trace
from genesis_sft.checkpoint.llama.hf_layout import half_split_order
from genesis_sft.checkpoint.opened import open_model
from tests.checkpoint.llama.random_llamas import Shape, as_stored, random_state, usual
from tests.conftest import train_byte_level

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5]])


def random_hf(**settings: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, num_hidden_layers=2, intermediate_size=44, max_position_embeddings=64, **settings
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # transformers starts norms at one, biases at zero and all else small
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2},
        {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True},
        {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1, "attention_bias": True},
        {"hidden_size": 21, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10, "mlp_bias": True},
        {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 0.1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
        },
    ],
    ids=["grouped", "tied", "one key head, biases", "odd sizes", "theta and epsilon"],
)
def test_it_computes_what_transformers_does(settings: dict[str, object]) -> None:
    model = random_hf(**settings)
    opened = open_model(model, train_byte_level())
    assert opened is not None
    with torch.no_grad():
        expected = model(input_ids=IDS, output_hidden_states=True)
    found = logits(opened.stored, opened.stated, IDS)
    assert float(expected.logits.std()) > 0.5  # there is something to compare
    torch.testing.assert_close(found, expected.logits, atol=1e-5 * float(expected.logits.abs().max()), rtol=1e-5)
    parts = dict(trace(opened.stored, opened.stated, IDS))
    assert list(parts) == ["embedding", "layer 0", "layer 1", "final norm", "head"]
    torch.testing.assert_close(parts["layer 0"], expected.hidden_states[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts["final norm"], expected.hidden_states[2], atol=1e-4, rtol=1e-4)


def test_neighbours_and_halves_are_two_orders_of_the_same_rows() -> None:
    shape = Shape(heads=4, kv_heads=2, head_size=6)
    state = random_state(shape)
    permuted = dict(state)
    for layer in range(2):
        for part, heads in (("wq", 4), ("wk", 2)):
            name = f"layers.{layer}.attention.{part}.weight"
            permuted[name] = state[name][half_split_order(heads, 6)]
    interleaved = logits(as_stored(state), usual(shape), IDS)
    half_split = logits(as_stored(permuted), usual(shape, rope_layout="half_split"), IDS)
    torch.testing.assert_close(interleaved, half_split, atol=1e-5, rtol=1e-5)
    assert float((logits(as_stored(permuted), usual(shape), IDS) - interleaved).abs().max()) > 0.1


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 500_000.0},
        {"rope_layout": "half_split"},
        {"norm_eps": 1e-2},
        {"head": "embedding"},
        {"embedding_scale": 3.0},
        {"gate_up_swapped": True},
        {"num_heads": 8, "num_kv_heads": 4},
        {"id_offset": 1},
        {"id_offset": -1},
    ],
    ids=str,
)
def test_every_convention_changes_what_is_computed(change: dict[str, object]) -> None:
    shape = Shape()
    stored, conventions = as_stored(random_state(shape)), usual(shape)
    found = logits(stored, replace(conventions, **change), IDS)  # type: ignore[arg-type]
    assert float((found - logits(stored, conventions, IDS)).abs().max()) > 1e-3


def test_bos_and_the_space_in_front_are_of_the_text_not_of_the_model() -> None:
    shape = Shape()
    stored = as_stored(random_state(shape))
    plain: Conventions = usual(shape)
    assert torch.equal(logits(stored, plain, IDS), logits(stored, replace(plain, bos=True, dummy_prefix=True), IDS))


def test_a_token_sees_nothing_that_comes_after_it() -> None:
    shape = Shape()
    stored = as_stored(random_state(shape))
    torch.testing.assert_close(
        logits(stored, usual(shape), IDS)[:, :5], logits(stored, usual(shape), IDS[:, :5]), atol=1e-6, rtol=1e-5
    )


def test_an_offset_of_one_reads_the_next_row_and_the_last_id_the_first() -> None:
    shape = Shape(rows=30)
    state = random_state(shape)
    shifted = {name: t.roll(1, 0) if name in ("tok_embeddings.weight", "output.weight") else t
               for name, t in state.items()}  # fmt: skip
    ids = torch.tensor([[0, 29, 7]])
    expected = logits(as_stored(state), usual(shape), ids)
    found = logits(as_stored(shifted), usual(shape, id_offset=1), ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
