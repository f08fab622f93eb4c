"""What else a checkpoint might mean: for each convention, the values that its shapes and its tokenizer allow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from genesis_sft.checkpoint.llama.conventions import Conventions, FusedOrder, Square
from genesis_sft.checkpoint.llama.sizes import Sizes, expected_shape
from genesis_sft.checkpoint.llama.slots import Slot
from genesis_sft.checkpoint.llama.stored import StoredLlama

THETAS = (10_000.0, 100_000.0, 500_000.0, 1_000_000.0)
EPSILONS = (1e-5, 1e-6, 1e-8)
FINE = ("rope_theta", "norm_eps")
"""Conventions that cost little when they are wrong, and show on long texts only."""

_HEAD_SIZES = range(8, 513, 2)

Change = Mapping[str, Any]
"""Fields of ``Conventions`` that belong together, with values for them: ``{"num_heads": 12, "num_kv_heads": 6}``."""


def changes(stored: StoredLlama, conventions: Conventions, *, has_bos: bool) -> Iterator[Change]:
    """Yield every single change of conventions that the shapes allow, likelier faults first.

    Args:
        stored: The model.
        conventions: Where to start from; what they say already is not yielded.
        has_bos: Whether the tokenizer has a BOS.
    """
    for change in _all_values(stored, conventions, has_bos=has_bos):
        if any(getattr(conventions, name) != value for name, value in change.items()):
            yield change


def apply(conventions: Conventions, change: Change) -> Conventions:
    """Return conventions with a change made."""
    return replace(conventions, **change)


def head_counts(sizes: Sizes) -> list[tuple[int, int]]:
    """Return the (query heads, key-value heads) that fit the widths, for even head sizes from 8 to 512.

    For a query of 1536 rows and a key of 768, head size 128 gives (12, 6).
    """
    return [
        (sizes.q_width // size, sizes.kv_width // size)
        for size in _HEAD_SIZES
        if sizes.q_width % size == 0
        and sizes.kv_width % size == 0
        and (sizes.q_width // size) % (sizes.kv_width // size) == 0
        and sizes.hidden_size % (sizes.q_width // size) == 0  # transformers has no other Llama
    ]


def _all_values(stored: StoredLlama, conventions: Conventions, *, has_bos: bool) -> Iterator[Change]:
    sizes = stored.sizes
    for layout in ("half_split", "interleaved"):
        yield {"rope_layout": layout}
    for head in ("own", "embedding") if sizes.has_head else ("embedding",):
        yield {"head": head}
    yield from ({"gate_up_swapped": swapped} for swapped in (False, True))
    if sizes.q_width == sizes.kv_width:
        yield from ({"qk_swapped": swapped} for swapped in (False, True))
    if Slot("qkv", 0) in stored.names.slots:
        yield from ({"fused_order": order} for order in get_args(FusedOrder))
        yield from ({"fused_grouping": grouping} for grouping in ("blocks", "groups"))
    yield from ({"id_offset": offset} for offset in (-1, 0, 1))
    if has_bos:
        yield from ({"bos": bos} for bos in (False, True))
    if conventions.dummy_prefix is not None:
        yield from ({"dummy_prefix": prefix} for prefix in (False, True))
    for heads, kv_heads in head_counts(sizes):
        yield {"num_heads": heads, "num_kv_heads": kv_heads}
    yield from ({"transposed": roles} for roles in _transposed(stored, conventions))
    yield from ({"rope_theta": theta} for theta in THETAS)
    yield from ({"norm_eps": epsilon} for epsilon in EPSILONS)
    # last: a wrong epsilon can be made up for by a larger embedding
    yield from ({"embedding_scale": scale} for scale in (1.0, math.sqrt(sizes.hidden_size)))


def _transposed(stored: StoredLlama, conventions: Conventions) -> Iterator[frozenset[Square]]:
    """Yield the sets in which one square matrix is the other way round, and the one with all of them."""
    square: Sequence[Square] = [
        role
        for role in get_args(Square)
        if (slot := Slot(role, None if role == "head" else 0)) in stored.names.slots
        and len(set(expected_shape(slot, stored.sizes))) == 1
    ]
    for role in square:
        yield conventions.transposed ^ {role}
    if len(square) > 1:
        yield frozenset(square)
        yield frozenset()
