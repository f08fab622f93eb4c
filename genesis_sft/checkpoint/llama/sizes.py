"""The sizes of a Llama-style model, from the shapes of its tensors; and the faults that shapes alone show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from genesis_sft.checkpoint.llama.slots import NameMap, Slot
from genesis_sft.errors import CheckFailed, ModelError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """What shapes tell. Widths are numbers of rows: ``q_width`` = query heads x head size."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    ffn_size: int
    q_width: int
    kv_width: int
    has_head: bool
    attention_bias: bool
    mlp_bias: bool


def infer_sizes(names: NameMap, shapes: Shapes) -> Sizes:
    """Return the sizes; every tensor is checked against them.

    Raises:
        ModelError: A tensor has a shape that no Llama-style model of these sizes has.
    """
    hidden = _shape(names, shapes, Slot("final_norm"))[0]
    num_layers = 1 + max(slot.layer for slot in names.slots if slot.layer is not None)
    q_width, kv_width = _attention_widths(names, shapes, hidden)
    sizes = Sizes(
        vocab_size=_other_side(_shape(names, shapes, Slot("embedding")), hidden, "embedding"),
        hidden_size=hidden,
        num_layers=num_layers,
        ffn_size=_ffn_size(names, shapes, hidden),
        q_width=q_width,
        kv_width=kv_width,
        has_head=Slot("head") in names.slots,
        attention_bias=any(slot.bias and slot.role in ("q", "k", "v", "o", "qkv") for slot in names.slots),
        mlp_bias=any(slot.bias and slot.role in ("gate", "up", "down", "gate_up") for slot in names.slots),
    )
    for slot, name in names.slots.items():
        expected = expected_shape(slot, sizes)
        if shapes[name] not in (expected, expected[::-1]):
            raise ModelError(
                f"expected {name} of {expected} by the sizes that the other tensors show "
                f"(hidden {hidden}, {num_layers} layers, FFN {sizes.ffn_size}, vocabulary {sizes.vocab_size}, "
                f"query width {q_width}, key-value width {kv_width}); found {shapes[name]}",
                hint="Is it in the right place? A rule file (--names) can say what each tensor is.",
            )
    return sizes


def expected_shape(slot: Slot, sizes: Sizes) -> tuple[int, ...]:
    """Return the shape of a slot in torch's (out, in) order; (out,) for a bias or a norm."""
    hidden, ffn, q, kv = sizes.hidden_size, sizes.ffn_size, sizes.q_width, sizes.kv_width
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (sizes.vocab_size, hidden),
        "head": (sizes.vocab_size, hidden),
        "final_norm": (hidden,),
        "attention_norm": (hidden,),
        "mlp_norm": (hidden,),
        "q": (q, hidden),
        "k": (kv, hidden),
        "v": (kv, hidden),
        "o": (hidden, q),
        "qkv": (q + 2 * kv, hidden),
        "gate": (ffn, hidden),
        "up": (ffn, hidden),
        "gate_up": (2 * ffn, hidden),
        "down": (hidden, ffn),
    }
    return shapes[slot.role][:1] if slot.bias else shapes[slot.role]


def correct_by_shape(names: NameMap, shapes: Shapes) -> tuple[NameMap, tuple[str, ...]]:
    """Return the names as shapes show that they must be, and in words what was wrong with them.

    With grouped heads the query is wider than the key and as wide as what the output projection takes in; a query
    that is as narrow as the value, beside a wide key, is the key.
    """
    first = {role: names.slots.get(Slot(role, 0)) for role in ("q", "k", "v")}
    if None in first.values():
        return names, ()
    counts = {role: _size(shapes[str(name)]) for role, name in first.items()}
    if not counts["q"] == counts["v"] < counts["k"]:
        return names, ()
    other = {"q": "k", "k": "q"}
    slots = {
        replace(slot, role=other[slot.role]) if slot.role in other else slot: name  # type: ignore[arg-type]
        for slot, name in names.slots.items()
    }
    cause = (
        f"query and key are swapped: {first['q']} of {shapes[str(first['q'])]} is as narrow as the value, "
        f"{first['k']} of {shapes[str(first['k'])]} is the query"
    )
    return replace(names, slots=slots), (cause,)


def refuse_single_transposed(names: NameMap, shapes: Shapes) -> None:
    """Refuse a matrix that lies the other way round than the same matrix of most layers.

    Raises:
        CheckFailed: Names it.
    """
    for role in sorted({slot.role for slot in names.slots if slot.layer is not None and not slot.bias}):
        of_role = [slot for slot in names.slots if slot.role == role and not slot.bias]
        usual, count = Counter(shapes[names.slots[slot]] for slot in of_role).most_common(1)[0]
        odd = [
            slot
            for slot in sorted(of_role)
            if shapes[names.slots[slot]] != usual and shapes[names.slots[slot]] == usual[::-1]
        ]
        if odd and 2 * count > len(of_role):
            name = names.slots[odd[0]]
            raise CheckFailed(
                f"transposed matrix: {name} is {shapes[name]}, and {usual} in {count} of {len(of_role)} layers"
                + (f"; {len(odd)} are so in all" if len(odd) > 1 else ""),
                hint="Something rewrote this checkpoint in part; take the one that the training wrote.",
            )


def _attention_widths(names: NameMap, shapes: Shapes, hidden: int) -> tuple[int, int]:
    q_width = _other_side(_shape(names, shapes, Slot("o", 0)), hidden, names.slots[Slot("o", 0)])
    if Slot("k", 0) in names.slots:
        return q_width, _other_side(_shape(names, shapes, Slot("k", 0)), hidden, names.slots[Slot("k", 0)])
    fused = _other_side(_shape(names, shapes, Slot("qkv", 0)), hidden, names.slots[Slot("qkv", 0)])
    if fused <= q_width or (fused - q_width) % 2:
        raise ModelError(
            f"expected more rows in {names.slots[Slot('qkv', 0)]} than the query's {q_width}, the rest for key and "
            f"value in equal parts; found {fused}"
        )
    return q_width, (fused - q_width) // 2


def _ffn_size(names: NameMap, shapes: Shapes, hidden: int) -> int:
    return _other_side(_shape(names, shapes, Slot("down", 0)), hidden, names.slots[Slot("down", 0)])


def _other_side(shape: tuple[int, ...], hidden: int, name: str) -> int:
    """Return the side of a matrix that is not the hidden size, whichever way round it lies."""
    if len(shape) != 2 or hidden not in shape:
        raise ModelError(f"expected a matrix with one side of the hidden size {hidden} as {name}; found {shape}")
    return shape[1] if shape[0] == hidden else shape[0]


def _shape(names: NameMap, shapes: Shapes, slot: Slot) -> tuple[int, ...]:
    return shapes[names.slots[slot]]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
