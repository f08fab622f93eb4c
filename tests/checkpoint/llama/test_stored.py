"""Promises of a stored model: each weight by its role, in (out, in) order, whatever it is called or fused with."""

from __future__ import annotations

import pytest
import torch

from genesis_sft.checkpoint.llama.stored import StoredLlama
from genesis_sft.checkpoint.opened import InMemory
from tests.checkpoint.llama.random_llamas import Shape, State, as_stored, random_state, usual

SHAPE = Shape(heads=4, kv_heads=2, head_size=2, hidden=6, ffn=5, layers=1, rows=7)
Q, K, V = torch.arange(8.0), 10 + torch.arange(4.0), 20 + torch.arange(4.0)


def fused(rows: list[float]) -> StoredLlama:
    """Rows of one number each, so that order can be read off."""
    state = {name: t for name, t in random_state(SHAPE).items() if not any(f".w{part}." in name for part in "qkv")}
    state["layers.0.attention.wqkv.weight"] = torch.tensor(rows)[:, None].expand(-1, 6).contiguous()
    return as_stored(state)


@pytest.mark.parametrize(
    ("order", "grouping", "rows"),
    [
        ("qkv", "blocks", [*range(8), 10, 11, 12, 13, 20, 21, 22, 23]),
        ("kqv", "blocks", [10, 11, 12, 13, *range(8), 20, 21, 22, 23]),
        # for each of two key heads: its two query heads of two rows, its key, its value
        ("qkv", "groups", [0, 1, 2, 3, 10, 11, 20, 21, 4, 5, 6, 7, 12, 13, 22, 23]),
        ("vkq", "groups", [20, 21, 10, 11, 0, 1, 2, 3, 22, 23, 12, 13, 4, 5, 6, 7]),
    ],
)
def test_fused_rows_come_apart(order: str, grouping: str, rows: list[int]) -> None:
    stored = fused([float(row) for row in rows])
    conventions = usual(SHAPE, fused_order=order, fused_grouping=grouping)
    for role, expected in (("q", Q), ("k", K), ("v", V)):
        assert stored.get(conventions, role, 0)[:, 0].tolist() == expected.tolist()  # type: ignore[arg-type]


def test_gate_lies_above_up() -> None:
    state = random_state(SHAPE)
    gate, up = state.pop("layers.0.feed_forward.w1.weight"), state.pop("layers.0.feed_forward.w3.weight")
    stored = as_stored(state | {"layers.0.feed_forward.gate_up_proj.weight": torch.cat([gate, up])})
    assert stored.bias(usual(SHAPE), "gate", 0) is None
    assert torch.equal(stored.get(usual(SHAPE), "gate", 0), gate)
    assert torch.equal(stored.get(usual(SHAPE, gate_up_swapped=True), "gate", 0), up)


def test_swapped_names_are_swapped_back() -> None:
    state = random_state(SHAPE)
    stored = as_stored(state)
    swapped = usual(SHAPE, gate_up_swapped=True, qk_swapped=True)
    assert torch.equal(stored.get(swapped, "up", 0), state["layers.0.feed_forward.w1.weight"])
    assert torch.equal(stored.get(swapped, "q", 0), state["layers.0.attention.wk.weight"])
    assert torch.equal(stored.get(swapped, "v", 0), state["layers.0.attention.wv.weight"])


def test_a_matrix_of_two_sides_is_turned_by_its_shape_and_a_square_one_by_its_convention() -> None:
    shape = Shape(heads=3, kv_heads=1, head_size=2, hidden=6, ffn=5, layers=1, rows=7)
    state = random_state(shape, biased=("wq",))
    turned: State = {
        name: t.T.contiguous() if ".wq.weight" in name or ".w2." in name else t for name, t in state.items()
    }
    stored = as_stored(turned)
    assert torch.equal(stored.get(usual(shape), "down", 0), state["layers.0.feed_forward.w2.weight"])
    conventions = usual(shape, transposed=frozenset({"q"}))
    assert torch.equal(stored.get(conventions, "q", 0), state["layers.0.attention.wq.weight"])
    assert torch.equal(stored.get(conventions, "q", 0, bias=True), state["layers.0.attention.wq.bias"])


class Counting(InMemory):
    """A source that counts what is read."""

    reads = 0

    def read(self, name: str) -> torch.Tensor:
        self.reads += 1
        return super().read(name)


def test_tensors_are_read_once_where_they_are_kept_and_are_let_go() -> None:
    stored = as_stored(random_state(SHAPE))
    source = Counting(random_state(SHAPE))
    keeping = StoredLlama(source, stored.names, stored.sizes, keep=True)
    for _ in range(3):
        keeping.get(usual(SHAPE), "o", 0)
    assert source.reads == 1
    keeping.forget()
    keeping.get(usual(SHAPE), "o", 0)
    assert source.reads == 2
    reading = StoredLlama(source, stored.names, stored.sizes)
    reading.get(usual(SHAPE), "o", 0)
    reading.get(usual(SHAPE), "o", 0)
    assert source.reads == 4


def test_an_export_is_held_to_what_it_rounds_to() -> None:
    stored = as_stored({name: t / 3 for name, t in random_state(SHAPE).items()})
    rounding = StoredLlama(stored.source, stored.names, stored.sizes, round_to=torch.bfloat16)
    found, plain = rounding.get(usual(SHAPE), "down", 0), stored.get(usual(SHAPE), "down", 0)
    assert found.dtype == torch.float32
    assert torch.equal(found, plain.bfloat16().float())
    assert not torch.equal(found, plain)
