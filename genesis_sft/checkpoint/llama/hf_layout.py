"""A stored model rewritten into what transformers' Llama computes by: names, rows, and ``config.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.sizes import Sizes
from genesis_sft.checkpoint.llama.slots import Role
from genesis_sft.checkpoint.llama.stored import StoredLlama

_LAYER_ROLES: tuple[tuple[Role, str], ...] = (
    ("attention_norm", "input_layernorm"),
    ("q", "self_attn.q_proj"),
    ("k", "self_attn.k_proj"),
    ("v", "self_attn.v_proj"),
    ("o", "self_attn.o_proj"),
    ("mlp_norm", "post_attention_layernorm"),
    ("gate", "mlp.gate_proj"),
    ("up", "mlp.up_proj"),
    ("down", "mlp.down_proj"),
)
_ATTENTION, _MLP = ("q", "k", "v", "o"), ("gate", "up", "down")


def is_tied(sizes: Sizes, conventions: Conventions) -> bool:
    """Whether the export has one matrix as embedding and head: not where only one of the two is scaled."""
    return conventions.head == "embedding" and conventions.embedding_scale == 1.0


def hf_tensors(stored: StoredLlama, conventions: Conventions) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the export's tensors one at a time, by transformers' names and in its rows' order.

    A factor on the embedding goes into its rows. Where some projections have a bias, the others get one of zeros:
    transformers has one switch for all of them.
    """
    embedding = _by_id(stored.get(conventions, "embedding"), conventions)
    scale = conventions.embedding_scale
    yield "model.embed_tokens.weight", embedding if scale == 1.0 else embedding * scale
    if not is_tied(stored.sizes, conventions):
        head = stored.get(conventions, "head") if conventions.head == "own" else None
        yield "lm_head.weight", embedding if head is None else _by_id(head, conventions)
    for layer in range(stored.sizes.num_layers):
        for role, name in _LAYER_ROLES:
            weight = _half_split(stored.get(conventions, role, layer), role, stored.sizes, conventions)
            yield f"model.layers.{layer}.{name}.weight", weight
            if role in (*(_ATTENTION if stored.sizes.attention_bias else ()), *(_MLP if stored.sizes.mlp_bias else ())):
                bias = stored.bias(conventions, role, layer)
                bias = weight.new_zeros(len(weight)) if bias is None else bias
                yield f"model.layers.{layer}.{name}.bias", _half_split(bias, role, stored.sizes, conventions)
    yield "model.norm.weight", stored.get(conventions, "final_norm")


def hf_config(sizes: Sizes, conventions: Conventions, *, context: int, dtype: str) -> dict[str, Any]:
    """Return ``config.json``.

    Args:
        sizes: From the shapes.
        conventions: From the pretraining config or the diagnosis.
        context: Longest sequence that the model was trained on, in tokens.
        dtype: Of the weights, e.g. ``"float32"``.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.ffn_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": conventions.num_heads,
        "num_key_value_heads": conventions.num_kv_heads,
        "head_dim": sizes.q_width // conventions.num_heads,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": conventions.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": conventions.rope_theta},
        "tie_word_embeddings": is_tied(sizes, conventions),
        "attention_bias": sizes.attention_bias,
        "mlp_bias": sizes.mlp_bias,
        "dtype": dtype,
    }


def half_split_order(num_heads: int, head_size: int) -> list[int]:
    """Return for each row of an export the stored row of the interleaved layout.

    Neighbours (2i, 2i + 1) of a head become (i, i + d/2): ``half_split_order(1, 6)`` is ``[0, 2, 4, 1, 3, 5]``.
    """
    within: Sequence[int] = [*range(0, head_size, 2), *range(1, head_size, 2)]
    return [head * head_size + row for head in range(num_heads) for row in within]


def _half_split(rows: torch.Tensor, role: Role, sizes: Sizes, conventions: Conventions) -> torch.Tensor:
    if conventions.rope_layout == "half_split" or role not in ("q", "k"):
        return rows
    heads = conventions.num_heads if role == "q" else conventions.num_kv_heads
    return rows[half_split_order(heads, len(rows) // heads)]


def _by_id(rows: torch.Tensor, conventions: Conventions) -> torch.Tensor:
    """Return row ``t`` for the tokenizer's id t."""
    return rows.roll(-conventions.id_offset, dims=0) if conventions.id_offset else rows
