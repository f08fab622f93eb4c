"""A Llama-style forward pass in plain PyTorch, by a checkpoint's own conventions and from its own tensors.

It shares no code with transformers and goes through no rewriting of weights, so that an export which agrees with it
was rewritten rightly. It works layer by layer: one layer's weights are in memory at a time, unless the stored model
keeps them. Formulas: Touvron et al. 2023 (arXiv:2302.13971), section 2.2; grouped heads: Ainslie et al. 2023
(arXiv:2305.13245).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.slots import Role
from genesis_sft.checkpoint.llama.stored import StoredLlama


@torch.inference_mode()
def logits(stored: StoredLlama, conventions: Conventions, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of next tokens, (B, T, rows), float32, in the order of the stored rows.

    Args:
        stored: The model.
        conventions: How it is to be computed.
        ids: (B, T), the tokenizer's ids; ``conventions.id_offset`` is added here.
    """
    *_, (_, outputs) = trace(stored, conventions, ids)
    return outputs


@torch.inference_mode()
def trace(stored: StoredLlama, conventions: Conventions, ids: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what comes out of each part in order: ``embedding``, ``layer 0``, ..., ``final norm``, ``head``.

    Hidden states are (B, T, hidden), the head's output (B, T, rows). For id t, row t + ``id_offset`` is taken, modulo
    the rows; the head's output is put back into the order of the tokenizer's ids.
    """
    rows = (ids + conventions.id_offset) % stored.sizes.vocab_size
    embedding = stored.get(conventions, "embedding")
    hidden = functional.embedding(rows, embedding) * conventions.embedding_scale
    yield "embedding", hidden
    for layer in range(stored.sizes.num_layers):
        attended = _attention(stored, conventions, layer, _norm(stored, conventions, "attention_norm", layer, hidden))
        hidden = hidden + attended
        hidden = hidden + _mlp(stored, conventions, layer, _norm(stored, conventions, "mlp_norm", layer, hidden))
        yield f"layer {layer}", hidden
    hidden = _norm(stored, conventions, "final_norm", None, hidden)
    yield "final norm", hidden
    head = embedding if conventions.head == "embedding" else stored.get(conventions, "head")
    yield "head", functional.linear(hidden, head).roll(-conventions.id_offset, dims=-1)


def _norm(
    stored: StoredLlama, conventions: Conventions, role: Role, layer: int | None, hidden: torch.Tensor
) -> torch.Tensor:
    mean_square = hidden.pow(2).mean(-1, keepdim=True)
    return hidden * torch.rsqrt(mean_square + conventions.norm_eps) * stored.get(conventions, role, layer)


def _linear(
    stored: StoredLlama, conventions: Conventions, role: Role, layer: int, inputs: torch.Tensor
) -> torch.Tensor:
    return functional.linear(inputs, stored.get(conventions, role, layer), stored.bias(conventions, role, layer))


def _mlp(stored: StoredLlama, conventions: Conventions, layer: int, inputs: torch.Tensor) -> torch.Tensor:
    gate = _linear(stored, conventions, "gate", layer, inputs)
    up = _linear(stored, conventions, "up", layer, inputs)
    return _linear(stored, conventions, "down", layer, functional.silu(gate) * up)


def _attention(stored: StoredLlama, conventions: Conventions, layer: int, inputs: torch.Tensor) -> torch.Tensor:
    batch, length, _ = inputs.shape
    heads, kv_heads = conventions.num_heads, conventions.num_kv_heads

    def in_heads(role: Role, count: int) -> torch.Tensor:  # (B, count, T, d)
        rows = _linear(stored, conventions, role, layer, inputs)
        return rows.view(batch, length, count, -1).transpose(1, 2)

    query = _rotate(in_heads("q", heads), conventions)
    key = _rotate(in_heads("k", kv_heads), conventions).repeat_interleave(heads // kv_heads, dim=1)
    value = in_heads("v", kv_heads).repeat_interleave(heads // kv_heads, dim=1)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, heads, T, T)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    mixed = (weights @ value).transpose(1, 2).reshape(batch, length, -1)
    return _linear(stored, conventions, "o", layer, mixed)


def _rotate(states: torch.Tensor, conventions: Conventions) -> torch.Tensor:
    """Turn each pair of a head's numbers by position x theta^(-2i/d); (B, heads, T, d)."""
    length, size = states.shape[-2:]
    frequencies = conventions.rope_theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (T, d/2)
    cos, sin = angles.cos(), angles.sin()
    if conventions.rope_layout == "interleaved":
        first, second = states[..., 0::2], states[..., 1::2]
        turned = first * cos - second * sin, first * sin + second * cos
        return torch.stack(turned, dim=-1).flatten(-2)
    first, second = states[..., : size // 2], states[..., size // 2 :]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
