"""Promises on words: every convention that can be taken wrongly has a cause that a reader can act on."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from genesis_sft.checkpoint.diagnosis.causes import name_cause
from genesis_sft.checkpoint.llama.conventions import Conventions, describe
from tests.checkpoint.llama.random_llamas import Shape, usual

CAUSES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"num_heads": 12, "num_kv_heads": 6},
        {"num_heads": 24, "num_kv_heads": 12},
        "head count: 12 query and 6 key-value heads, not 24 and 12",
    ),
    ({"num_heads": 12}, {"num_heads": 24}, "head count: 12, not 24 (num_heads)"),
    ({"num_kv_heads": 6}, {"num_kv_heads": 3}, "head count: 6, not 3 (num_kv_heads)"),
    (
        {"rope_layout": "interleaved"},
        {"rope_layout": "half_split"},
        "RoPE layout: query and key rows are interleaved, and were taken as half-split",
    ),
    ({"rope_theta": 5e5}, {"rope_theta": 1e4}, "RoPE theta is 500,000, not 10,000"),
    ({"norm_eps": 1e-5}, {"norm_eps": 1e-2}, "norm epsilon is 1e-05, not 0.01"),
    (
        {"head": "own"},
        {"head": "embedding"},
        "output head: the model has one of its own, and the embedding was taken instead (tied)",
    ),
    (
        {"head": "embedding"},
        {"head": "own"},
        "output head: it is the embedding (tied); the head that is stored is not the model's",
    ),
    ({"embedding_scale": 8.0}, {"embedding_scale": 1.0}, "embedding scale is 8, not 1"),
    ({"gate_up_swapped": True}, {"gate_up_swapped": False}, "gate and up projections are swapped"),
    ({"qk_swapped": True}, {"qk_swapped": False}, "query and key projections are swapped"),
    (
        {"fused_order": "kqv"},
        {"fused_order": "qkv"},
        "fused query, key and value: fused order k, q, v, not fused order q, k, v",
    ),
    (
        {"fused_grouping": "groups"},
        {"fused_grouping": "blocks"},
        "fused query, key and value: fused by key-value head, not fused in blocks",
    ),
    (
        {"transposed": frozenset({"q", "o"})},
        {"transposed": frozenset()},
        "transposed matrix: o, q the other way round than taken",
    ),
    (
        {"transposed": frozenset({"q"})},
        {"transposed": frozenset({"q", "v"})},
        "transposed matrix: v the other way round than taken",
    ),
    ({"id_offset": 1}, {"id_offset": 0}, "token ids are off by 1: id i has row i + 1"),
    ({"id_offset": 0}, {"id_offset": -1}, "token ids are off by 1: id i has row i"),
    ({"bos": True}, {"bos": False}, "BOS is missing: the model expects one before every text"),
    ({"bos": False}, {"bos": True}, "BOS is one too many: the model does not expect one before a text"),
    (
        {"dummy_prefix": True},
        {"dummy_prefix": False},
        "the tokenizer's space before a text: the model was trained with it",
    ),
    (
        {"dummy_prefix": False},
        {"dummy_prefix": True},
        "the tokenizer's space before a text: the model was trained without it",
    ),
]


@pytest.mark.parametrize(("right", "wrong", "words"), CAUSES, ids=[words[:30] for _, _, words in CAUSES])
def test_a_cause_says_what_is_right_and_what_was_taken(
    right: dict[str, Any], wrong: dict[str, Any], words: str
) -> None:
    assert name_cause(wrong, usual(Shape(), **right)) == words


def test_every_convention_has_words() -> None:
    named = {name for right, _, _ in CAUSES for name in right}
    assert named == {field.name for field in fields(Conventions)}
    chosen = usual(Shape(), dummy_prefix=True)
    for field in fields(Conventions):
        words = describe(field.name, getattr(chosen, field.name))
        assert words
        assert "_" not in words


def test_values_that_differ_have_other_words() -> None:
    for right, wrong, _ in CAUSES:
        for name in right:
            assert describe(name, right[name]) != describe(name, wrong[name])
