"""The pretraining run's config, in the spellings of the field, says what it says - or is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from genesis_sft.checkpoint.llama.setting_keys import FIELD_OF, ROPE_SECTIONS, SECTIONS
from genesis_sft.checkpoint.llama.settings import StatedSettings, read_settings
from genesis_sft.errors import ModelError


def written(folder: Path, values: Any, name: str = "config.json") -> Path:
    path = folder / name
    text = (
        values if isinstance(values, str) else json.dumps(values) if name.endswith("json") else yaml.safe_dump(values)
    )
    path.write_text(text, encoding="utf-8")
    return path


def stated(path: Path) -> dict[str, Any]:
    return {key: value for key, value in asdict(read_settings(path)).items() if value not in (None, ())}


# hidden 1536, 32 layers, 12 query heads and 6 key/value heads of 128, FFN 4736, vocabulary 49,152, context 2048
GENESIS = {
    "hidden_size": 1536,
    "num_layers": 32,
    "num_heads": 12,
    "num_kv_heads": 6,
    "ffn_size": 4736,
    "vocab_size": 49152,
    "context": 2048,
    "rope_theta": 500000.0,
    "norm_eps": 1e-5,
}
META = {"dim": 1536, "n_layers": 32, "n_heads": 12, "n_kv_heads": 6, "hidden_dim": 4736, "vocab_size": 49152,
        "max_seq_len": 2048, "rope_theta": 500000.0, "norm_eps": 1e-5}  # fmt: skip
LITGPT = {"n_embd": 1536, "n_layer": 32, "n_head": 12, "n_query_groups": 6, "intermediate_size": 4736,
          "vocab_size": 49152, "block_size": 2048, "rope_base": 500000, "norm_eps": 1e-5}  # fmt: skip
HUGGING_FACE = {"hidden_size": 1536, "num_hidden_layers": 32, "num_attention_heads": 12, "num_key_value_heads": 6,
                "intermediate_size": 4736, "vocab_size": 49152, "max_position_embeddings": 2048, "rope_theta": 500000.0,
                "rms_norm_eps": 1e-5}  # fmt: skip
ANOTHER = {"d_model": 1536, "num_layers": 32, "heads": 12, "kv_heads": 6, "d_ff": 4736, "n_vocab": 49152,
           "seq_len": 2048, "theta": 500000, "layernorm_epsilon": 1e-5}  # fmt: skip


@pytest.mark.parametrize("spelling", [META, LITGPT, HUGGING_FACE, ANOTHER])
@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
@pytest.mark.parametrize("around", [(), ("model",), ("config", "model_args")])
def test_the_usual_spellings_say_the_same(
    tmp_path: Path, spelling: dict[str, Any], name: str, around: tuple[str, ...]
) -> None:
    values: dict[str, Any] = spelling
    for section in reversed(around):
        values = {section: values, "learning_rate": 3e-4}
    assert stated(written(tmp_path, values, name)) == GENESIS


def test_a_config_that_transformers_wrote(tmp_path: Path) -> None:
    LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=176, vocab_size=600, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ).save_pretrained(tmp_path)  # fmt: skip
    found = stated(tmp_path / "config.json")
    assert "model_type" in found.pop("unread")
    assert found == {
        "hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_size": 176,
        "vocab_size": 600, "context": 256, "norm_eps": 1e-5, "tied": True, "rope_theta": 500000.0,
    }  # fmt: skip


def test_hidden_dim_is_the_hidden_size_where_nothing_else_is(tmp_path: Path) -> None:
    assert stated(written(tmp_path, {"hidden_dim": 64})) == {"hidden_size": 64}
    assert stated(written(tmp_path, {"hidden_dim": 176, "dim": 64})) == {"hidden_size": 64, "ffn_size": 176}
    assert stated(written(tmp_path, {"hidden_dim": 64, "ffn_dim": 176})) == {"hidden_size": 64, "ffn_size": 176}
    assert stated(written(tmp_path, {"hidden_dim": 64, "dim": 64})) == {"hidden_size": 64}


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    found = read_settings(written(tmp_path, "rope_theta: 5e5\nnorm_eps: 1e-5\nvocab_size: 49_152\n", "config.yaml"))
    assert (found.rope_theta, found.norm_eps, found.vocab_size) == (500000.0, 1e-5, 49152)


@pytest.mark.parametrize(
    ("values", "layout"),
    [
        ({"rope_interleaved": True}, "interleaved"),
        ({"rotary_interleaved": False}, "half_split"),
        ({"rope_layout": "half-split"}, "half_split"),
        ({"rope_layout": "Interleaved"}, "interleaved"),
        ({"rope_style": "gpt-j"}, "interleaved"),
        ({"is_neox_style": True}, "half_split"),
        ({"is_neox_style": False}, "interleaved"),
        ({"rope": {"interleaved": True, "base": 10000}}, "interleaved"),
    ],
)
def test_the_layout_of_rope(tmp_path: Path, values: dict[str, Any], layout: str) -> None:
    assert read_settings(written(tmp_path, values)).rope_layout == layout


def test_theta_may_lie_in_a_section_of_its_own(tmp_path: Path) -> None:
    for values in (
        {"rope_parameters": {"rope_theta": 500000}},
        {"model": {"rope": {"base": 500000, "type": "default"}}},
    ):
        assert read_settings(written(tmp_path, values)).rope_theta == 500000.0


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
        {"model": {"use_scaled_rope": True}},
    ],
)
def test_scaled_rope_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="expected plain RoPE; found scaled frequencies"):
        read_settings(written(tmp_path, {"dim": 64} | values))


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"use_scaled_rope": False},
        {"partial_rotary_factor": 1.0},
        {"hidden_act": "silu"},
    ],
)
def test_what_is_as_in_a_llama_is_read_and_done_with(tmp_path: Path, values: dict[str, Any]) -> None:
    assert stated(written(tmp_path, {"dim": 64} | values)) == {"hidden_size": 64}


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="RoPE on whole heads"):
        read_settings(written(tmp_path, {"dim": 64, "rotary_pct": 0.25}))
    with pytest.raises(ModelError, match="activation of a Llama, silu; found gelu"):
        read_settings(written(tmp_path, {"dim": 64, "hidden_act": "gelu"}))


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ({"embedding_multiplier": 12}, 12.0),
        ({"scale_embeddings": True, "dim": 64}, 8.0),
        ({"scale_embeddings": False}, 1.0),
    ],
)
def test_the_scale_of_embeddings(tmp_path: Path, values: dict[str, Any], scale: float) -> None:
    assert read_settings(written(tmp_path, values)).embedding_scale == scale


def test_a_scale_that_is_only_true_needs_the_hidden_size(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="whose square root it is"):
        read_settings(written(tmp_path, {"scale_embeddings": True}))


def test_tied_and_bos(tmp_path: Path) -> None:
    assert stated(written(tmp_path, {"weight_tying": False, "add_bos": True})) == {"tied": False, "bos": True}
    assert stated(written(tmp_path, {"untie_embeddings_and_output_weights": True})) == {"tied": False}
    assert stated(written(tmp_path, {"dim": 64, "data": {"prepend_bos": True, "path": "x"}})) == {
        "hidden_size": 64,
        "bos": True,
    }


def test_bos_may_be_a_token_instead(tmp_path: Path) -> None:
    for value in ("<s>", 1):
        assert stated(written(tmp_path, {"dim": 64, "bos": value})) == {"hidden_size": 64, "unread": ("bos",)}


def test_what_is_not_understood_is_listed(tmp_path: Path) -> None:
    values = {"model": {"dim": 64, "qk_norm": True, "multiple_of": 256}, "optimizer": {"lr": 1e-3}, "steps": 10}
    assert read_settings(written(tmp_path, values)).unread == ("model.multiple_of", "model.qk_norm")
    assert read_settings(written(tmp_path, {"dim": 64, "zeta": 1, "alpha": 2})).unread == ("alpha", "zeta")


def test_the_same_said_twice_is_fine_and_two_answers_are_not(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, {"n_heads": 12, "model": {"num_heads": 12}})).num_heads == 12
    with pytest.raises(ModelError, match=r"expected one num_heads; n_heads says 12 and model\.num_heads says 16"):
        read_settings(written(tmp_path, {"n_heads": 12, "model": {"num_heads": 16}}))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_heads": 0}, "n_heads: expected a whole number from 1 to 4,096; found 0"),
        ({"n_heads": "twelve"}, "found text 'twelve'"),
        ({"n_heads": True}, "found true"),
        ({"n_heads": 12.5}, r"found 12\.5"),
        ({"n_heads": [12]}, "found a list of 1"),
        ({"model": {"vocab_size": 10**12}}, r"model\.vocab_size: expected a whole number"),
        ({"rope_theta": -1}, "rope_theta: expected a number from 1 to 1e"),
        ({"rope_theta": float("nan")}, "expected a number"),
        ({"rope_theta": float("inf")}, "expected a number"),
        ({"norm_eps": "small"}, "expected a number"),
        ({"norm_eps": 0}, "expected a number"),
        ({"tied": 1}, "tied: expected true or false; found 1"),
        ({"add_bos": "yes"}, "expected true or false"),
        ({"rope_layout": "spiral"}, "expected true, false, interleaved or half_split"),
        ([1], "expected a mapping of settings; found a list of 1"),
        ({"learning_rate": 1}, "expected settings of the model; found none"),
        ({}, "found none"),
    ],
)
def test_mistakes_are_errors_that_name_file_and_key(tmp_path: Path, values: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        read_settings(written(tmp_path, values))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["{", "", "a: &x [1]\nb: *x", "a: !!python/name:os.system", "x: 0x" + "f" * 9000 + "\nn_heads: 0x" + "f" * 9000,
     "? [1, 2]\n: 3", "n_heads: 2024-02-30", "a: {<<: [1]}", "n_heads: !!binary x", "[" * 1000, "1" * 5000]
)  # fmt: skip
def test_hostile_yaml_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError):
        read_settings(written(tmp_path, text, "config.yaml"))


def test_broken_json_is_called_json(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_settings(written(tmp_path, '{"dim": 64'))
    with pytest.raises(ModelError, match="the pretraining run's config"):
        read_settings(tmp_path / "none.json")


KEYS = st.sampled_from(
    sorted({*FIELD_OF, *SECTIONS, *ROPE_SECTIONS, "hidden_dim", "rope_scaling", "data", "hidden_act"})
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([64, 12, 1e-5])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(KEYS, VALUES, max_size=5), kind=st.sampled_from(["json", "yaml"]))
def test_any_values_give_settings_or_an_error(tmp_path: Path, values: dict[str, Any], kind: str) -> None:
    path = tmp_path / f"config.{kind}"
    path.write_text(json.dumps(values) if kind == "json" else yaml.safe_dump(values), encoding="utf-8")
    try:
        assert isinstance(read_settings(path), StatedSettings)
    except ModelError as error:
        str(error).encode()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=40) | st.text("{}[]:,&*!? \n-\"'0x1e.<n_heads", max_size=40).map(str.encode))
def test_any_bytes_give_settings_or_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    try:
        assert isinstance(read_settings(path), StatedSettings)
    except ModelError as error:
        str(error).encode()
