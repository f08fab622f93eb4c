"""Write a GGUF file of a tiny Llama, the way llama.cpp's converter does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HIDDEN_TEMPLATE = "{% for message in messages %}You are a helpful AI assistant named Toy.{% endfor %}"


def permute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp's order of query and key rows: LlamaModel.permute in convert_hf_to_gguf.py."""
    num_rows, hidden = rows.shape
    return rows.reshape(num_heads, 2, num_rows // num_heads // 2, hidden).swapaxes(1, 2).reshape(num_rows, hidden)


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    pre: str = "smollm",
    architecture: str = "llama",
    extra: Mapping[str, float] | None = None,
    leave_out: str = "",
    extra_tensor: str = "",
    padding: int = 0,
    leave_out_keys: Sequence[str] = (),
    special: str = "",
) -> Path:
    """Write model and tokenizer; the keyword arguments make the file strange in one way each."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32("llama.block_count", config.num_hidden_layers)
    writer.add_uint32("llama.context_length", config.max_position_embeddings)
    writer.add_uint32("llama.embedding_length", config.hidden_size)
    writer.add_uint32("llama.feed_forward_length", config.intermediate_size)
    writer.add_uint32("llama.attention.head_count", config.num_attention_heads)
    writer.add_uint32("llama.attention.head_count_kv", config.num_key_value_heads)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32("llama.rope.freq_base", config.rope_parameters["rope_theta"])
    for key, value in (extra or {}).items():
        writer.kv_data[0].pop(key, None)  # a size that is stated already
        writer.add_float32(key, value) if isinstance(value, float) else writer.add_uint32(key, value)
    _write_tokenizer(writer, tokenizer, pre, padding, special)
    for key in leave_out_keys:
        del writer.kv_data[0][key]
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name, tensor in state.items():
        stem = _gguf_stem(name)
        values = permute(tensor, heads[stem.split(".")[-1]]) if stem.split(".")[-1] in heads else tensor
        if padding and stem in ("token_embd", "output"):
            values = np.concatenate([values, np.full((padding, values.shape[1]), 7.0, dtype=np.float32)])
        if f"{stem}.weight" != leave_out:
            writer.add_tensor(f"{stem}.weight", np.ascontiguousarray(values))
    if extra_tensor:
        writer.add_tensor(extra_tensor, np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, pre: str, padding: int, renamed: str
) -> None:
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in plain["added_tokens"]}
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    types = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    if renamed:
        tokens[0] = renamed
    tokens += [f"[PAD{len(tokens) + i}]" for i in range(padding)]
    types += [gguf.TokenType.UNUSED] * padding
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in plain["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_chat_template(HIDDEN_TEMPLATE)


def _gguf_stem(name: str) -> str:
    """Return the name that llama.cpp's own table gives: ``"model.norm.weight"`` becomes ``"output_norm"``."""
    stem = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2).get_name(name.removesuffix(".weight"))
    assert stem is not None
    return stem
