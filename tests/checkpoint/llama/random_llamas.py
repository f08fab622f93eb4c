"""Small random Llamas as tensors by role, in memory: what a checkpoint of given sizes and conventions would hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.hf_layout import hf_config, hf_tensors
from genesis_sft.checkpoint.llama.names import map_names
from genesis_sft.checkpoint.llama.sizes import infer_sizes
from genesis_sft.checkpoint.llama.stored import StoredLlama
from genesis_sft.checkpoint.opened import InMemory

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of a small Llama."""

    heads: int = 4
    kv_heads: int = 2
    head_size: int = 8
    hidden: int = 24
    ffn: int = 40
    layers: int = 2
    rows: int = 30


def random_state(shape: Shape, *, seed: int = 0, head: bool = True, biased: tuple[str, ...] = ()) -> State:
    """Return weights by Meta's names; ``biased`` names the projections that have a bias, such as ``"wq"``."""
    generator = torch.Generator().manual_seed(seed)
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    matrices = {
        "attention.wq": (q, shape.hidden),
        "attention.wk": (kv, shape.hidden),
        "attention.wv": (kv, shape.hidden),
        "attention.wo": (shape.hidden, q),
        "feed_forward.w1": (shape.ffn, shape.hidden),
        "feed_forward.w2": (shape.hidden, shape.ffn),
        "feed_forward.w3": (shape.ffn, shape.hidden),
    }
    state = {"tok_embeddings.weight": torch.randn(shape.rows, shape.hidden, generator=generator)}
    for layer in range(shape.layers):
        for name, sides in matrices.items():
            state[f"layers.{layer}.{name}.weight"] = torch.randn(sides, generator=generator) * 0.3
            if name.split(".")[1] in biased:
                state[f"layers.{layer}.{name}.bias"] = torch.randn(sides[0], generator=generator) * 0.3
        for name in ("attention_norm", "ffn_norm"):
            state[f"layers.{layer}.{name}.weight"] = 1 + 0.2 * torch.randn(shape.hidden, generator=generator)
    state["norm.weight"] = 1 + 0.2 * torch.randn(shape.hidden, generator=generator)
    if head:
        state["output.weight"] = torch.randn(shape.rows, shape.hidden, generator=generator) * 0.3
    return state


def as_stored(state: State) -> StoredLlama:
    """Return tensors in memory seen as a Llama."""
    source = InMemory(state)
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    names = map_names(shapes)
    return StoredLlama(source, names, infer_sizes(names, shapes))


def usual(shape: Shape, **changes: object) -> Conventions:
    """Return interleaved conventions for a shape, with changes."""
    fields = {
        "num_heads": shape.heads,
        "num_kv_heads": shape.kv_heads,
        "rope_layout": "interleaved",
        "rope_theta": 10_000.0,
        "norm_eps": 1e-5,
        "head": "own",
    }
    return Conventions(**(fields | changes))  # type: ignore[arg-type]


def exported(stored: StoredLlama, conventions: Conventions) -> LlamaForCausalLM:
    """Return transformers' model of an export; every tensor has its place and none is missing."""
    config = LlamaConfig(**hf_config(stored.sizes, conventions, context=64, dtype="float32"))
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(dict(hf_tensors(stored, conventions)), strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    model.tie_weights()
    return model
