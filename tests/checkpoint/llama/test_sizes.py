"""Promises on what shapes alone tell: the sizes, and the faults that need no text to be seen."""

from __future__ import annotations

import pytest

from genesis_sft.checkpoint.diagnosis.candidates import head_counts
from genesis_sft.checkpoint.llama.names import map_names
from genesis_sft.checkpoint.llama.sizes import Shapes, Sizes, correct_by_shape, infer_sizes, refuse_single_transposed
from genesis_sft.errors import CheckFailed, ModelError


def shapes_of(
    *, hidden: int, layers: int, q: int, kv: int, ffn: int, rows: int, head: bool = True
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (rows, hidden), "norm.weight": (hidden,)}
    if head:
        shapes["output.weight"] = (rows, hidden)
    for layer in range(layers):
        root = f"layers.{layer}."
        shapes |= {
            f"{root}attention.wq.weight": (q, hidden),
            f"{root}attention.wk.weight": (kv, hidden),
            f"{root}attention.wv.weight": (kv, hidden),
            f"{root}attention.wo.weight": (hidden, q),
            f"{root}feed_forward.w1.weight": (ffn, hidden),
            f"{root}feed_forward.w2.weight": (hidden, ffn),
            f"{root}feed_forward.w3.weight": (ffn, hidden),
            f"{root}attention_norm.weight": (hidden,),
            f"{root}ffn_norm.weight": (hidden,),
        }
    return shapes


GENESIS = shapes_of(hidden=1536, layers=32, q=1536, kv=768, ffn=4736, rows=49_152)
SMALL = shapes_of(hidden=64, layers=3, q=64, kv=32, ffn=176, rows=576)


def parameters(shapes: Shapes) -> int:
    return sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in shapes.values())


def test_the_sizes_of_genesis_1b() -> None:
    sizes = infer_sizes(map_names(GENESIS), GENESIS)
    assert sizes == Sizes(
        vocab_size=49_152,
        hidden_size=1536,
        num_layers=32,
        ffn_size=4736,
        q_width=1536,
        kv_width=768,
        has_head=True,
        attention_bias=False,
        mlp_bias=False,
    )
    # 2 x 49152 x 1536 = 151.0 M; a layer: 3 x 1536^2 = 7.08 M, 3 x 4736 x 1536 = 21.8 M, two norms; the last norm
    assert parameters(GENESIS) == 2 * 75_497_472 + 32 * (7_077_888 + 21_823_488 + 3072) + 1536 == 1_075_938_816
    assert (12, 6) in head_counts(sizes)  # head size 128
    assert all(1536 // q == 768 // kv for q, kv in head_counts(sizes))


def test_the_sizes_of_a_fused_and_tied_model() -> None:
    shapes = shapes_of(hidden=64, layers=2, q=96, kv=32, ffn=100, rows=500, head=False)
    for layer in range(2):
        for part in "qkv":
            del shapes[f"layers.{layer}.attention.w{part}.weight"]
        shapes[f"layers.{layer}.attention.wqkv.weight"] = (96 + 2 * 32, 64)
        shapes[f"layers.{layer}.attention.wqkv.bias"] = (160,)
    sizes = infer_sizes(map_names(shapes), shapes)
    assert (sizes.q_width, sizes.kv_width, sizes.has_head, sizes.attention_bias) == (96, 32, False, True)


def test_matrices_that_all_lie_the_other_way_round_give_the_same_sizes() -> None:
    other_way = {name: shape[::-1] for name, shape in SMALL.items()}
    assert infer_sizes(map_names(other_way), other_way) == infer_sizes(map_names(SMALL), SMALL)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layers.2.attention.wv.weight", (16, 64)),
        ("layers.1.feed_forward.w2.weight", (64, 175)),
        ("layers.1.ffn_norm.weight", (63,)),
        ("output.weight", (575, 64)),
    ],
)
def test_a_tensor_of_another_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    shapes = SMALL | {name: shape}
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        infer_sizes(map_names(shapes), shapes)


def test_a_fused_matrix_that_leaves_nothing_for_key_and_value() -> None:
    shapes = {name: shape for name, shape in SMALL.items() if ".wq" not in name and ".wk" not in name}
    shapes = {name: shape for name, shape in shapes.items() if ".wv" not in name}
    shapes |= {f"layers.{layer}.attention.wqkv.weight": (64, 64) for layer in range(3)}
    with pytest.raises(ModelError, match=r"expected more rows in .*wqkv.* than the query's 64"):
        infer_sizes(map_names(shapes), shapes)


def test_a_query_as_narrow_as_the_value_is_the_key() -> None:
    swapped = {name.replace("wq", "§").replace("wk", "wq").replace("§", "wk"): shape for name, shape in SMALL.items()}
    names, faults = correct_by_shape(map_names(swapped), swapped)
    assert faults == (
        "query and key are swapped: layers.0.attention.wq.weight of (32, 64) is as narrow as the value, "
        "layers.0.attention.wk.weight of (64, 64) is the query",
    )
    assert infer_sizes(names, swapped) == infer_sizes(map_names(SMALL), SMALL)


def test_right_names_are_left_alone() -> None:
    equal = shapes_of(hidden=64, layers=2, q=64, kv=64, ffn=100, rows=50)
    for shapes in (SMALL, GENESIS, equal):
        names = map_names(shapes)
        assert correct_by_shape(names, shapes) == (names, ())
        refuse_single_transposed(names, shapes)


def test_one_matrix_unlike_its_kind_is_refused() -> None:
    shapes = GENESIS | {"layers.7.feed_forward.w2.weight": (4736, 1536)}
    with pytest.raises(CheckFailed) as caught:
        refuse_single_transposed(map_names(shapes), shapes)
    assert str(caught.value) == (
        "transposed matrix: layers.7.feed_forward.w2.weight is (4736, 1536), and (1536, 4736) in 31 of 32 layers"
    )
