"""What a search found, in words: the causes of a bad model, and what the text cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from genesis_sft.checkpoint.diagnosis.candidates import Change
from genesis_sft.checkpoint.llama.conventions import Conventions, describe
from genesis_sft.checkpoint.llama.stored import StoredLlama


def name_cause(change_back: Change, chosen: Conventions) -> str:
    """Return what was wrong, in one clause.

    Args:
        change_back: The fields that were stated otherwise, with the stated values.
        chosen: The conventions that predict the text.

    Example:
        ``name_cause({"rope_theta": 10000.0}, chosen)`` is ``"RoPE theta is 500,000, not 10,000"``.
    """
    right: Mapping[str, Any] = {name: getattr(chosen, name) for name in change_back}
    match dict(right):
        case {"num_heads": heads, "num_kv_heads": kv_heads}:
            wrong = " and ".join(str(change_back[name]) for name in ("num_heads", "num_kv_heads"))
            return f"head count: {heads} query and {kv_heads} key-value heads, not {wrong}"
        case {"num_heads": count} | {"num_kv_heads": count}:
            return f"head count: {count}, not {next(iter(change_back.values()))} ({next(iter(change_back))})"
        case {"rope_layout": layout}:
            wrong = str(change_back["rope_layout"]).replace("_", "-")
            return f"RoPE layout: query and key rows are {layout.replace('_', '-')}, and were taken as {wrong}"
        case {"rope_theta": theta}:
            return f"RoPE theta is {theta:,.0f}, not {change_back['rope_theta']:,.0f}"
        case {"norm_eps": epsilon}:
            return f"norm epsilon is {epsilon:g}, not {change_back['norm_eps']:g}"
        case {"head": "own"}:
            return "output head: the model has one of its own, and the embedding was taken instead (tied)"
        case {"head": "embedding"}:
            return "output head: it is the embedding (tied); the head that is stored is not the model's"
        case {"gate_up_swapped": _}:
            return "gate and up projections are swapped"
        case {"qk_swapped": _}:
            return "query and key projections are swapped"
        case {"transposed": roles}:
            wrong_way = sorted(frozenset(roles) ^ change_back["transposed"])
            return f"transposed matrix: {', '.join(wrong_way)} the other way round than taken"
        case {"id_offset": offset}:
            return f"token ids are off by {abs(offset - change_back['id_offset'])}: id i has row {_row(offset)}"
        case {"bos": True}:
            return "BOS is missing: the model expects one before every text"
        case {"bos": False}:
            return "BOS is one too many: the model does not expect one before a text"
        case {"embedding_scale": scale}:
            return f"embedding scale is {scale:.4g}, not {change_back['embedding_scale']:.4g}"
        case {"dummy_prefix": wanted}:
            return f"the tokenizer's space before a text: the model was trained {'with' if wanted else 'without'} it"
    name, value = next(iter(right.items()))
    return f"fused query, key and value: {describe(name, value)}, not {describe(name, change_back[name])}"


def name_weights_that_are_no_numbers(stored: StoredLlama) -> str | None:
    """Return which tensor holds infinities or NaN, in one clause; None if none does."""
    for name in sorted(stored.names.slots.values()):
        bad = int((~torch.isfinite(stored.source.read(name))).sum())
        if bad:
            return f"the weights are no numbers: {name} holds {bad:,} infinities or NaN; take an earlier checkpoint"
    return None


def _row(offset: int) -> str:
    return f"i {'+' if offset > 0 else '-'} {abs(offset)}" if offset else "i"
