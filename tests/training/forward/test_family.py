"""Models of the Llama family are let in, and others refused with the reason, whatever they are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from genesis_sft.errors import ModelError
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.family import require_llama_family

CONTEXT = 64

ACCEPTED = {
    "llama": ("Llama", {}),
    "llama, tied, biases": ("Llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama, dropout": ("Llama", {"attention_dropout": 0.5}),
    "llama 3 positions": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "smollm3, layers without positions": ("SmolLM3", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {}),
    "mistral, window as long as the context": ("Mistral", {"sliding_window": CONTEXT}),
    "olmo2": ("Olmo2", {}),
    "granite, all multipliers but one": ("Granite", {"embedding_multiplier": 12.0, "residual_multiplier": 0.2}),
    "phi3": ("Phi3", {}),
    "gemma 1": ("Gemma", {}),
}

MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}

REFUSED = {
    "sliding window": ("Mistral", {"sliding_window": CONTEXT - 1}, f"sees {CONTEXT - 1} tokens back"),
    "window in some layers": (
        "Qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention"],
        },
        "sees 16 tokens back",
    ),
    "multiplied logits": ("Granite", {"logits_scaling": 8.0}, "multiplies its logits by 0.125"),
    "multiplied logits, another name": ("Cohere", {"logit_scale": 0.0625}, "multiplies its logits by 0.0625"),
    "soft-capped logits": (
        "Gemma2",
        {"attn_logit_softcapping": None, "sliding_window": CONTEXT},
        "soft-caps its logits",
    ),
    "soft-capped scores": ("Gemma2", {"final_logit_softcapping": None}, "soft-capped scores"),
    "router": ("Mixtral", {"num_local_experts": 4}, "mixture of 4 experts"),
    "attention sinks": ("GptOss", {"num_local_experts": 1, "num_experts_per_tok": 1}, "attention sinks"),
    "recurrent": ("Mamba", {"state_size": 4}, "0 of its 2 layers"),
    "convolution in some layers": ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "1 of its 2 layers"),
    "recurrence beside attention": ("FalconH1", MAMBA, "changes the hidden states of the one after it"),
    "attention that is told nothing": ("StableLm", {}, "does not take conversations laid end to end"),
    "positions by the longest conversation": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "factor": 2.0,
                "original_max_position_embeddings": 32,
            }
        },
        "beyond 32 tokens",
    ),
}


def small(family: str, changes: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 101,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
    model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config).train()
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return model


@pytest.mark.parametrize(("family", "changes"), ACCEPTED.values(), ids=ACCEPTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accepted(family: str, changes: dict[str, Any], dtype: torch.dtype) -> None:
    model = small(family, changes).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    require_llama_family(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == SEGMENT_ATTENTION
    assert model.training


@pytest.mark.parametrize(("family", "changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_reason(family: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match="cannot be trained here") as caught:
        require_llama_family(small(family, changes))
    assert reason in str(caught.value)


def test_a_window_is_no_matter_where_conversations_are_shorter() -> None:
    model = small("Mistral", {"sliding_window": 16})
    require_llama_family(model, longest=16)
    with pytest.raises(ModelError, match=r"tokens.max_length: 16"):
        require_llama_family(model, longest=17)


def test_positions_beyond_the_first_context_are_no_matter_where_conversations_are_shorter() -> None:
    _, changes, _ = REFUSED["positions by the longest conversation"]
    model = small("Llama", changes)
    require_llama_family(model, longest=32)
    with pytest.raises(ModelError, match=r"tokens.max_length: 32"):
        require_llama_family(model, longest=33)


def test_a_model_that_changes_its_hidden_states_before_the_head_is_refused() -> None:
    model = small("Llama", {})
    model.lm_head.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    with pytest.raises(ModelError, match="before the output head"):
        require_llama_family(model)


def test_an_output_head_of_another_kind_is_refused() -> None:
    model = small("Llama", {})
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(ModelError, match="no linear map"):
        require_llama_family(model)


def test_attention_that_looks_ahead_is_refused() -> None:
    model = small("Llama", {})
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(ModelError, match="looks ahead"):
        require_llama_family(model)


def test_positions_of_its_own_making_are_refused() -> None:
    model = small("Llama", {})

    def add_own_positions(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output + 0.01 * torch.arange(output.shape[1])[:, None]

    model.get_input_embeddings().register_forward_hook(add_own_positions)
    with pytest.raises(ModelError, match="off those of each conversation alone"):
        require_llama_family(model)
