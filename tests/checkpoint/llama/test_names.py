"""Stored names in the field's spellings become the places of a Llama; what does not is an error that helps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.checkpoint.llama.name_rules import NameRule, NameRules
from genesis_sft.checkpoint.llama.names import NameMap, Slot, map_names, name_table
from genesis_sft.errors import ModelError

# hidden 64, 4 query heads and 2 key/value heads of 16, FFN 176, vocabulary 600
HIDDEN, KV, FFN, VOCAB = 64, 32, 176, 600
WIDE = {
    "embedding": (VOCAB, HIDDEN),
    "head": (VOCAB, HIDDEN),
    "final_norm": (HIDDEN,),
    "attention_norm": (HIDDEN,),
    "mlp_norm": (HIDDEN,),
    "q": (HIDDEN, HIDDEN),
    "k": (KV, HIDDEN),
    "v": (KV, HIDDEN),
    "o": (HIDDEN, HIDDEN),
    "qkv": (HIDDEN + 2 * KV, HIDDEN),
    "gate": (FFN, HIDDEN),
    "up": (FFN, HIDDEN),
    "gate_up": (2 * FFN, HIDDEN),
    "down": (HIDDEN, FFN),
}
# role -> stored name, "#" for the number of the layer
META = {
    "embedding": "tok_embeddings.weight",
    "attention_norm": "layers.#.attention_norm.weight",
    "mlp_norm": "layers.#.ffn_norm.weight",
    "q": "layers.#.attention.wq.weight",
    "k": "layers.#.attention.wk.weight",
    "v": "layers.#.attention.wv.weight",
    "o": "layers.#.attention.wo.weight",
    "gate": "layers.#.feed_forward.w1.weight",
    "up": "layers.#.feed_forward.w3.weight",
    "down": "layers.#.feed_forward.w2.weight",
    "final_norm": "norm.weight",
    "head": "output.weight",
}
HUGGING_FACE = {
    "embedding": "model.embed_tokens.weight",
    "attention_norm": "model.layers.#.input_layernorm.weight",
    "mlp_norm": "model.layers.#.post_attention_layernorm.weight",
    "q": "model.layers.#.self_attn.q_proj.weight",
    "k": "model.layers.#.self_attn.k_proj.weight",
    "v": "model.layers.#.self_attn.v_proj.weight",
    "o": "model.layers.#.self_attn.o_proj.weight",
    "gate": "model.layers.#.mlp.gate_proj.weight",
    "up": "model.layers.#.mlp.up_proj.weight",
    "down": "model.layers.#.mlp.down_proj.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
TORCHTUNE = META | {
    "attention_norm": "layers.#.sa_norm.scale",
    "mlp_norm": "layers.#.mlp_norm.scale",
    "q": "layers.#.attn.q_proj.weight",
    "k": "layers.#.attn.k_proj.weight",
    "v": "layers.#.attn.v_proj.weight",
    "o": "layers.#.attn.output_proj.weight",
    "gate": "layers.#.mlp.w1.weight",
    "up": "layers.#.mlp.w3.weight",
    "down": "layers.#.mlp.w2.weight",
    "final_norm": "norm.scale",
}
GPT_LIKE = {
    "embedding": "transformer.wte.weight",
    "attention_norm": "transformer.h.#.ln_1.weight",
    "mlp_norm": "transformer.h.#.ln_2.weight",
    "q": "transformer.h.#.attn.q_proj.weight",
    "k": "transformer.h.#.attn.k_proj.weight",
    "v": "transformer.h.#.attn.v_proj.weight",
    "o": "transformer.h.#.attn.c_proj.weight",
    "gate": "transformer.h.#.mlp.c_fc1.weight",
    "up": "transformer.h.#.mlp.c_fc2.weight",
    "down": "transformer.h.#.mlp.c_proj.weight",
    "final_norm": "transformer.ln_f.weight",
    "head": "lm_head.weight",
}
FUSED_GPT = {
    "embedding": "wte.weight",
    "attention_norm": "h.#.ln_1.weight",
    "mlp_norm": "h.#.ln_2.weight",
    "qkv": "h.#.attn.c_attn.weight",
    "o": "h.#.attn.c_proj.weight",
    "gate_up": "h.#.mlp.c_fc.weight",  # rows: twice the width of c_proj
    "down": "h.#.mlp.c_proj.weight",
    "final_norm": "ln_f.weight",
    "head": "lm_head.weight",
}
LITGPT = {
    "embedding": "transformer.wte.weight",
    "attention_norm": "transformer.h.#.norm_1.weight",
    "mlp_norm": "transformer.h.#.norm_2.weight",
    "qkv": "transformer.h.#.attn.attn.weight",
    "o": "transformer.h.#.attn.proj.weight",
    "gate": "transformer.h.#.mlp.fc_1.weight",
    "up": "transformer.h.#.mlp.fc_2.weight",
    "down": "transformer.h.#.mlp.proj.weight",
    "final_norm": "transformer.ln_f.weight",
    "head": "lm_head.weight",
}
MEGATRON = {
    "embedding": "embedding.word_embeddings.weight",
    "attention_norm": "decoder.layers.#.self_attention.linear_qkv.layer_norm_weight",
    "mlp_norm": "decoder.layers.#.mlp.linear_fc1.layer_norm_weight",
    "qkv": "decoder.layers.#.self_attention.linear_qkv.weight",
    "o": "decoder.layers.#.self_attention.linear_proj.weight",
    "gate_up": "decoder.layers.#.mlp.linear_fc1.weight",
    "down": "decoder.layers.#.mlp.linear_fc2.weight",
    "final_norm": "decoder.final_layernorm.weight",
    "head": "output_layer.weight",
}
DIFFUSERS_LIKE = META | {
    "q": "layers.#.attn.to_q.weight",
    "k": "layers.#.attn.to_k.weight",
    "v": "layers.#.attn.to_v.weight",
    "o": "layers.#.attn.to_out.0.weight",
    "head": "to_logits.weight",
}
FROM_SCRATCH = {
    "embedding": "tok_emb.weight",
    "attention_norm": "trf_blocks.#.norm1.scale",
    "mlp_norm": "trf_blocks.#.norm2.scale",
    "q": "trf_blocks.#.att.W_query.weight",
    "k": "trf_blocks.#.att.W_key.weight",
    "v": "trf_blocks.#.att.W_value.weight",
    "o": "trf_blocks.#.att.out_proj.weight",
    "gate": "trf_blocks.#.ff.fc1.weight",
    "up": "trf_blocks.#.ff.fc2.weight",
    "down": "trf_blocks.#.ff.fc3.weight",
    "final_norm": "final_norm.scale",
    "head": "out_head.weight",
}
GGUF = {
    "embedding": "token_embd.weight",
    "attention_norm": "blk.#.attn_norm.weight",
    "mlp_norm": "blk.#.ffn_norm.weight",
    "q": "blk.#.attn_q.weight",
    "k": "blk.#.attn_k.weight",
    "v": "blk.#.attn_v.weight",
    "o": "blk.#.attn_output.weight",
    "gate": "blk.#.ffn_gate.weight",
    "up": "blk.#.ffn_up.weight",
    "down": "blk.#.ffn_down.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
}
FUSED_HUGGING_FACE = {
    role: name for role, name in HUGGING_FACE.items() if role not in ("q", "k", "v", "gate", "up")
} | {
    "qkv": "model.layers.#.self_attn.qkv_proj.weight",
    "gate_up": "model.layers.#.mlp.gate_up_proj.weight",
}
SPELLINGS = {
    "Meta": META,
    "Hugging Face": HUGGING_FACE,
    "torchtune": TORCHTUNE,
    "GPT-like": GPT_LIKE,
    "fused GPT": FUSED_GPT,
    "LitGPT": LITGPT,
    "Megatron": MEGATRON,
    "Diffusers-like": DIFFUSERS_LIKE,
    "from scratch": FROM_SCRATCH,
    "GGUF": GGUF,
    "fused Hugging Face": FUSED_HUGGING_FACE,
}


@dataclass(frozen=True)
class Stored:
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


def shapes_of(spelling: dict[str, str], layers: int = 3, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {name: WIDE[slot.role] for slot, name in expected(spelling, layers, prefix).items()}


def expected(spelling: dict[str, str], layers: int = 3, prefix: str = "") -> dict[Slot, str]:
    return {
        Slot(role, layer): prefix + name.replace("#", str(layer))
        for role, name in spelling.items()
        for layer in (range(layers) if "#" in name else (None,))
    }


def renamed(shapes: dict[str, tuple[int, ...]], old: str, new: str) -> dict[str, tuple[int, ...]]:
    assert any(old in name for name in shapes)
    return {name.replace(old, new): shape for name, shape in shapes.items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_usual_spelling_fills_every_place(spelling: str) -> None:
    found = map_names(shapes_of(SPELLINGS[spelling]))
    assert found == NameMap(expected(SPELLINGS[spelling]), {})


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "app.model.", "state.model._orig_mod.module."])
def test_prefixes_and_wrappers_in_front_change_nothing(spelling: str, prefix: str) -> None:
    assert map_names(shapes_of(SPELLINGS[spelling], prefix=prefix)).slots == expected(
        SPELLINGS[spelling], prefix=prefix
    )


def test_wrappers_inside_a_name_are_cut() -> None:
    wrapped = {role: name.replace("layers.#.", "layers.#._fsdp_wrapped_module._checkpoint_wrapped_module.")
               for role, name in META.items()}  # fmt: skip
    shapes = shapes_of(wrapped, prefix="_fsdp_wrapped_module.")
    assert map_names(shapes).slots == expected(wrapped, prefix="_fsdp_wrapped_module.")


@pytest.mark.parametrize(
    "name",
    ["attention.qkv", "attention.wqkv", "attn.Wqkv", "attn.qkv_proj", "attention.query_key_value", "attn.in_proj"],
)
def test_fused_attention_has_many_names(name: str) -> None:
    spelling = {role: text for role, text in META.items() if role not in ("q", "k", "v")}
    found = map_names(shapes_of(spelling | {"qkv": f"layers.#.{name}.weight"}))
    assert found.slots[Slot("qkv", 2)] == f"layers.2.{name}.weight"


@pytest.mark.parametrize(
    ("fused", "down"), [("gate_up_proj", "down_proj"), ("w13", "w2"), ("w12", "w3"), ("fc1", "fc2")]
)
def test_fused_mlp_has_many_names(fused: str, down: str) -> None:
    spelling = {role: text for role, text in META.items() if role not in ("gate", "up", "down")}
    spelling |= {"gate_up": f"layers.#.mlp.{fused}.weight", "down": f"layers.#.mlp.{down}.weight"}
    assert map_names(shapes_of(spelling)).slots == expected(spelling)


def test_down_is_the_matrix_that_lies_the_other_way_round() -> None:
    other_order = META | {"up": META["down"], "down": META["up"]}  # w1 = gate, w2 = up, w3 = down
    assert map_names(shapes_of(other_order)).slots == expected(other_order)


def test_square_matrices_keep_the_usual_meaning_of_their_names() -> None:
    square = {name: (64, 64) if "feed_forward" in name else shape for name, shape in shapes_of(META).items()}
    assert map_names(square).slots == expected(META)
    square = {name: (64, 64) if ".ff." in name else shape for name, shape in shapes_of(FROM_SCRATCH).items()}
    assert map_names(square).slots == expected(FROM_SCRATCH)


def test_one_transposed_matrix_does_not_change_what_its_name_means() -> None:
    for name in ("w1", "w2", "w3"):
        shapes = shapes_of(META)
        shapes[f"layers.1.feed_forward.{name}.weight"] = shapes[f"layers.1.feed_forward.{name}.weight"][::-1]
        assert map_names(shapes).slots == expected(META)


def test_matrices_that_all_lie_transposed_are_named_alike() -> None:
    for spelling in (META, FUSED_GPT, LITGPT):
        shapes = {name: shape[::-1] if "." in name else shape for name, shape in shapes_of(spelling).items()}
        assert map_names(shapes).slots == expected(spelling)


def test_biases_have_places_of_their_own() -> None:
    biases = {f"layers.{layer}.attention.{name}.bias": (rows,) for layer in range(3)
              for name, rows in (("wq", HIDDEN), ("wk", KV), ("wv", KV))}  # fmt: skip
    slots = map_names(shapes_of(META) | biases).slots
    assert {slot for slot in slots if slot.bias} == {Slot(r, n, bias=True) for r in ("q", "k", "v") for n in range(3)}
    assert slots[Slot("k", 1, bias=True)] == "layers.1.attention.wk.bias"


def test_biases_of_a_fused_parameter_without_a_module() -> None:
    spelling = {role: text for role, text in META.items() if role not in ("q", "k", "v")}
    spelling["qkv"] = "layers.#.attention.in_proj_weight"
    bias = {f"layers.{layer}.attention.in_proj_bias": (HIDDEN + 2 * KV,) for layer in range(3)}
    slots = map_names(shapes_of(spelling) | bias).slots
    assert slots[Slot("qkv", 0, bias=True)] == "layers.0.attention.in_proj_bias"


def test_a_head_may_be_absent() -> None:
    tied = {role: name for role, name in META.items() if role != "head"}
    assert Slot("head") not in map_names(shapes_of(tied)).slots


def test_buffers_are_skipped_with_a_reason() -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": (8,),
        "rope.freqs": (8,),
        "freqs_cis": (256, 8),
        "cos_cached": (256, 16),
        "model.layers.1.self_attn.bias": (1, 1, 256, 256),
        "model.layers.1.self_attn.masked_bias": (),
        "model.layers.1.attn.mask": (256, 256),
    }
    rope, mask = "computed from the config: RoPE frequencies", "causal mask"
    found = map_names(shapes_of(HUGGING_FACE) | buffers)
    assert found.skipped == dict(zip(buffers, [rope, rope, rope, rope, mask, mask, mask], strict=True))
    assert found.slots == expected(HUGGING_FACE)


@pytest.mark.parametrize(
    ("name", "shape", "feature"),
    [
        ("layers.{}.attention.q_norm.weight", (16,), "qk-norm"),
        ("layers.{}.feed_forward.experts.0.w1.weight", (FFN, HIDDEN), "mixture of experts"),
        ("layers.{}.post_attention_norm.weight", (HIDDEN,), "norms behind attention or MLP"),
        ("layers.{}.attention_norm.bias", (HIDDEN,), "LayerNorm"),
        ("layers.{}.cross_attn.q_proj.weight", (HIDDEN, HIDDEN), "cross-attention"),
        ("layers.{}.attention.wq.lora_A", (8, HIDDEN), "adapters"),
    ],
)
def test_what_llama_has_not_is_called_by_its_name(name: str, shape: tuple[int, ...], feature: str) -> None:
    more = {name.format(layer): shape for layer in range(3)}
    with pytest.raises(ModelError, match="not a Llama-style model") as caught:
        map_names(shapes_of(META) | more)
    assert feature in str(caught.value)
    assert f"{name.format('{0..2}')}  {shape}" in str(caught.value)
    assert f'- "{name.format("{n}")}"' in str(caught.value)  # ready to be skipped, if the user knows better


@pytest.mark.parametrize(("name", "feature"), [("wpe.weight", "learned positions"), ("mtp.proj.weight", "multi-token")])
def test_what_llama_has_not_at_the_top(name: str, feature: str) -> None:
    with pytest.raises(ModelError, match=feature):
        map_names(shapes_of(META) | {name: (256, HIDDEN)})


def test_an_mlp_without_a_gate_is_said_to_be_one() -> None:
    spelling = {role: name for role, name in FUSED_GPT.items() if role != "gate_up"} | {"up": "h.#.mlp.c_fc.weight"}
    with pytest.raises(ModelError, match="an MLP without a gate"):
        map_names(shapes_of(spelling))


def test_unknown_names_are_listed_folded_with_the_rule_file_to_write() -> None:
    shapes = renamed(shapes_of(META, prefix="_orig_mod."), "attention.wq", "mix.read")
    with pytest.raises(ModelError) as caught:
        map_names(renamed(shapes, "tok_embeddings.weight", "wordtable"))
    assert str(caught.value).splitlines() == [
        "Expected a place for every tensor; 4 have none:",
        "    _orig_mod.wordtable                      (600, 64)",
        "    _orig_mod.layers.{0..2}.mix.read.weight  (64, 64)",
        "A rule file can say what they are:",
        "    names:",
        '      "wordtable": ROLE',
        '      "layers.{n}.mix.read.weight": ROLE',
        "    skip:  # only what the model does not use when it computes",
        '      - "some.other.{n}.name"',
    ]
    assert "--names" in str(caught.value.hint)


def test_two_models_in_one_checkpoint_need_a_choice() -> None:
    shapes = shapes_of(HUGGING_FACE, prefix="model.") | shapes_of(HUGGING_FACE, prefix="ema.")
    with pytest.raises(ModelError, match=r"roots: ema, model$") as caught:
        map_names(shapes)
    assert caught.value.hint == "Choose one: --root ema or --root model"
    for root in ("ema", "model"):
        found = map_names(shapes, root=root)
        assert found.slots == expected(HUGGING_FACE, prefix=root + ".")
        assert len(found.skipped) == len(found.slots)


def test_a_model_without_a_root_beside_its_average_is_chosen_by_a_dot() -> None:
    shapes = shapes_of(HUGGING_FACE) | shapes_of(HUGGING_FACE, prefix="ema._orig_mod.")
    with pytest.raises(ModelError, match=r"roots: \., ema\._orig_mod"):
        map_names(shapes)
    assert map_names(shapes, root=".").slots == expected(HUGGING_FACE)
    assert map_names(shapes, root="ema").slots == expected(HUGGING_FACE, prefix="ema._orig_mod.")


def test_a_root_keeps_the_head_that_lies_beside_the_model() -> None:
    assert map_names(shapes_of(HUGGING_FACE), root="model").slots == expected(HUGGING_FACE)


def test_a_root_may_be_given_with_or_without_wrappers() -> None:
    shapes = shapes_of(META, prefix="_orig_mod.app.module.model.") | shapes_of(META, prefix="ema.")
    for root in ("_orig_mod.app", "app.model", "app._orig_mod.model"):
        assert map_names(shapes, root=root).slots == expected(META, prefix="_orig_mod.app.module.model.")


def test_a_root_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelError, match="under the root 'emma'"):
        map_names(shapes_of(META), root="emma")


def test_the_norm_of_another_part_is_no_final_norm() -> None:
    shapes = {name: shape for name, shape in shapes_of(META, prefix="model.").items() if name != "model.norm.weight"}
    with pytest.raises(ModelError, match="another part of the checkpoint"):
        map_names(shapes | {"speech.norm.weight": (HIDDEN,)})


def test_two_names_for_one_place_are_refused() -> None:
    with pytest.raises(ModelError, match="one tensor as attention_norm of layer 0"):
        map_names(shapes_of(META) | {"layers.0.ln_1.weight": (HIDDEN,)})
    with pytest.raises(ModelError, match="one tensor as qkv of layer 1"):
        map_names(shapes_of(META) | {"layers.1.attention.wqkv.weight": WIDE["qkv"]})


def test_empty_places_are_listed_folded() -> None:
    shapes = {
        name: shape
        for name, shape in shapes_of(META, layers=6).items()
        if not name.startswith("layers.2.") and "wo" not in name and name not in ("tok_embeddings.weight",)
    }
    del shapes["layers.4.feed_forward.w2.weight"]
    with pytest.raises(ModelError) as caught:
        map_names(shapes)
    assert str(caught.value).splitlines() == [
        "expected every place of a Llama of 6 layers filled; missing:",
        "    embedding",
        "    layer 2",
        "    o of layers 0..1,3..5",
        "    down of layer 4",
    ]


def test_a_bias_that_is_not_as_wide_as_its_matrix_is_refused() -> None:
    with pytest.raises(ModelError, match="the bias of a q of"):
        map_names(shapes_of(META) | {"layers.0.attention.wq.bias": (7,)})


def test_a_bias_without_a_matrix_is_refused() -> None:
    shapes = shapes_of(META) | {"layers.0.attention.wq.bias": (HIDDEN,)}
    del shapes["layers.0.attention.wq.weight"]
    with pytest.raises(ModelError, match=r"the matrix to the bias layers\.0\.attention\.wq\.bias"):
        map_names(shapes)


def test_a_role_that_does_not_fit_the_number_of_dimensions_is_refused() -> None:
    with pytest.raises(ModelError, match="by its name q, which is a matrix"):
        map_names(shapes_of(META) | {"layers.0.attention.wq.weight": (HIDDEN * HIDDEN,)})


def test_rules_of_the_user_win_over_built_in_ones() -> None:
    rules = NameRules((NameRule("layers.{n}.attention.wq.weight", "k"), NameRule("attention.wk", None)), "names.yaml")
    shapes = shapes_of(META)
    with pytest.raises(ModelError, match=r"q of layers 0\.\.2"):
        map_names(shapes, rules)
    rules = NameRules((NameRule("{n}.attention.wq", "k"), NameRule("{n}.attention.wk", "q")), "names.yaml")
    slots = map_names(shapes, rules).slots
    assert slots[Slot("k", 1)] == "layers.1.attention.wq.weight"
    assert slots[Slot("q", 1)] == "layers.1.attention.wk.weight"


def test_the_table_shows_each_kind_of_tensor_once() -> None:
    shapes = shapes_of(META, layers=32) | {"rope.freqs": (8,)}
    table = name_table(map_names(shapes), {name: Stored(shape) for name, shape in shapes.items()})
    lines = table.splitlines()
    assert lines[0].split("  ")[0] == "tok_embeddings.weight"
    assert " ".join(lines[3].split()) == "layers.{0..31}.attention.wq.weight -> q (64, 64) float32"
    assert (
        " ".join(lines[-1].split())
        == "rope.freqs -> not needed: computed from the config: RoPE frequencies (8,) float32"
    )
    assert len(lines) == 13
    assert len({line.index("->") for line in lines}) == 1


def test_a_table_with_another_model_beside_counts_its_tensors() -> None:
    shapes = shapes_of(META) | shapes_of(META, prefix="ema.")
    table = name_table(map_names(shapes, root="ema"), {name: Stored(shape) for name, shape in shapes.items()})
    assert table.splitlines()[-1] == "30 tensors are not taken: outside the root ema"


def test_no_tensors_and_no_layers_are_errors() -> None:
    with pytest.raises(ModelError, match="found none"):
        map_names({})
    with pytest.raises(ModelError, match="expected the layers"):
        map_names({"tok_embeddings.weight": (VOCAB, HIDDEN), "norm.weight": (HIDDEN,)})


def test_a_huge_layer_number_is_an_error_in_no_time() -> None:
    shapes = shapes_of(META) | {"layers.99999.attention.wq.weight": WIDE["q"]}
    with pytest.raises(ModelError, match=r"layers 3\.\.99998"):
        map_names(shapes)


def test_terminal_codes_in_names_do_not_reach_the_terminal() -> None:
    with pytest.raises(ModelError) as caught:
        map_names(shapes_of(META) | {"layers.0.\x1b[2Jevil\nline": (1,)})
    assert "\x1b" not in str(caught.value)
    assert "evil␊line" in str(caught.value)


PARTS = st.sampled_from(
    ["layers", "h", "0", "1", "2", "17", "attention", "attn", "mlp", "w1", "w2", "w3", "wq", "qkv", "c_attn", "bias",
     "weight", "scale", "module", "norm", "output", "ema", "model", "to_out", "layer_norm_weight", "linear_qkv", "",
     "²", "{n}", "\ud800", "fc_1", "in_proj_weight", "gate", "tok_embeddings"]
)  # fmt: skip
NAMES = st.lists(PARTS | st.text(max_size=6), min_size=1, max_size=6).map(".".join)
SHAPES = st.lists(st.sampled_from([0, 1, 32, 64, 128, 176, 352]), max_size=4).map(tuple)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, SHAPES, max_size=12), st.booleans(), st.none() | NAMES)
def test_hostile_names_give_a_map_or_an_error(more: dict[str, tuple[int, ...]], whole: bool, root: str | None) -> None:
    shapes = (shapes_of(META, layers=2) if whole else {}) | more
    try:
        found = map_names(shapes, root=root)
    except ModelError as error:
        str(error).encode()
        return
    assert sorted([*found.slots.values(), *found.skipped]) == sorted(shapes)
    assert name_table(found, {name: Stored(shape) for name, shape in shapes.items()})
