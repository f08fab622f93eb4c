"""Conversations laid end to end are computed exactly as if each were alone."""

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from genesis_sft.batches.collate import Batch, collate
from genesis_sft.errors import ModelError
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION, forward_hidden

LENGTHS = (1, 7, 3, 12)


def conversations(vocab_size: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocab_size, length) for length in LENGTHS]


def together(ids: list[np.ndarray]) -> Batch:
    return collate([(one, []) for one in ids])


def small(config_class: type, model_class: type) -> torch.nn.Module:
    torch.manual_seed(0)
    config = config_class(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    return model_class(config).eval()


@pytest.mark.parametrize(
    ("config_class", "model_class"),
    [(MistralConfig, MistralForCausalLM), (Qwen3Config, Qwen3ForCausalLM), (None, None)],
)
def test_equal_to_each_conversation_alone(
    config_class: type | None, model_class: type | None, tiny_model: LlamaForCausalLM
) -> None:
    model = small(config_class, model_class) if config_class and model_class else tiny_model
    ids = conversations(100)
    with torch.no_grad():
        alone = torch.cat([model.model(torch.from_numpy(one)[None]).last_hidden_state[0] for one in ids])
        model.set_attn_implementation(SEGMENT_ATTENTION)
        packed = forward_hidden(model, together(ids))
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_changing_one_conversation_does_not_move_another(tiny_model: LlamaForCausalLM) -> None:
    tiny_model.set_attn_implementation(SEGMENT_ATTENTION)
    ids = conversations(100)
    changed = copy.deepcopy(ids)
    changed[1][:] = (changed[1] + 1) % 100
    with torch.no_grad():
        before, after = (forward_hidden(tiny_model, together(one)) for one in (ids, changed))
    start, stop = LENGTHS[0], LENGTHS[0] + LENGTHS[1]
    assert torch.equal(before[:start], after[:start])
    assert torch.equal(before[stop:], after[stop:])
    assert not torch.equal(before[start:stop], after[start:stop])


def test_a_model_with_other_attention_is_refused(tiny_model: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match="would see each other"):
        forward_hidden(tiny_model, together(conversations(100)))
