"""Read a Llama-style model from a GGUF file, the format of llama.cpp, into a plain float32 model.

GGUF leaves out or changes some things that a Hugging Face folder states, and each of them fails silently when guessed:

- The pre-tokenizer is only named (``tokenizer.ggml.pre``), so its definition has to be known here. With byte-level
  splitting alone, line breaks or spaces before a digit become other tokens than those that SmolLM2 was trained on,
  which changes the ids of 1.2 % of real SFT rows.
- Rows of the query and key projections stand in another order, which belongs to another layout of RoPE.
- A stored chat template may add a system prompt of its own; it is left out.

So the file is read strictly: an architecture, pre-tokenizer, setting or tensor that is not understood is refused.
One line of SmolLM2's metadata: ``tokenizer.ggml.pre = "smollm"``; one of its tensors: ``blk.0.attn_q.weight`` of
(576, 576) in Q4_1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from genesis_sft.checkpoint.quiet import quiet_transformers
from genesis_sft.console import progress
from genesis_sft.errors import ModelError

# Splitting as llama.cpp defines it for these names (src/llama-vocab.cpp); others are refused rather than guessed.
_PRE_TOKENIZERS = ("smollm", "gpt-2")

_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the model in float32 and eval mode, and its tokenizer without a chat template.

    Raises:
        ModelError: The file is damaged, or holds something that is not understood.
    """
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ModelError(f"{path} cannot be read as GGUF; it may have been cut off: {error}") from None
    try:
        _refuse_unknown(path, metadata)
        tokenizer = _build_tokenizer(metadata)
        config = _build_config(metadata, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
        return _build_model(path, config, reader.tensors), tokenizer
    except KeyError as error:
        raise ModelError(f"{path} cannot be used: its metadata has no {error}") from None


def _refuse_unknown(path: Path, metadata: dict[str, Any]) -> None:
    """Refuse what would be read wrongly without any error."""
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelError(
            f"{path}: expected a GGUF file of a Llama-style model (general.architecture llama); found {architecture!r}",
            hint="Name the Hugging Face folder of the model instead.",
        )
    strange = [key for key in metadata if key.startswith(("llama.rope.scaling.", "llama.expert"))]
    if strange:
        raise ModelError(f"{path}: settings that this version does not carry over: {', '.join(sorted(strange))}")
    head_size = metadata["llama.embedding_length"] // metadata["llama.attention.head_count"]
    sizes = [metadata.get(f"llama.{key}", head_size) for key in ("rope.dimension_count", "attention.key_length")]
    if sizes != [head_size, head_size]:
        raise ModelError(f"{path}: expected RoPE over whole heads of size {head_size}; found {sizes[0]} of {sizes[1]}")
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ModelError(
            f"{path}: its tokenizer is of kind {kind!r} with pre-tokenizer {pre!r}; a GGUF file does not say how "
            f"that one splits text, and this version knows only 'gpt2' with {' or '.join(map(repr, _PRE_TOKENIZERS))}",
            hint="Name the Hugging Face folder of the model, whose tokenizer.json says it.",
        )


def _pre_tokenizer(pre: str) -> PreTokenizer:
    """Return the pre-tokenizer that a GGUF file names: how text is split before merges apply."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def _build_tokenizer(metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    # unused ids are rows that the training framework padded the embedding with
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != gguf.TokenType.UNUSED}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(metadata["tokenizer.ggml.pre"])
    tokenizer.decoder = decoders.ByteLevel()
    for i, token in enumerate(tokens):
        if types[i] in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED):
            is_special = types[i] == gguf.TokenType.CONTROL
            added = [AddedToken(token, normalized=False, special=is_special)]
            (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)(added)
    named = {
        f"{name}_token": tokens[metadata[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in metadata
    }
    adds = {f"add_{end}_token": True for end in ("bos", "eos") if metadata.get(f"tokenizer.ggml.add_{end}_token")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, **adds)


def _build_config(metadata: dict[str, Any], *, tied: bool) -> LlamaConfig:
    heads = metadata["llama.attention.head_count"]
    ids = {
        f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return LlamaConfig(
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=_shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default", "rope_theta": _shortest(metadata.get("llama.rope.freq_base", 1e4))},
        tie_word_embeddings=tied,
        **ids,
    )


def _shortest(value: float) -> float:
    """Return the shortest decimal of a float32: GGUF's 9.999999747378752e-06 was written as 1e-05."""
    return float(str(np.float32(value)))


def _build_model(path: Path, config: LlamaConfig, tensors: list[Any]) -> LlamaForCausalLM:
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = LlamaForCausalLM(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    weights: dict[str, torch.Tensor] = {}
    with progress("reading GGUF", len(tensors), "tensors") as bar:
        for tensor in tensors:
            name = _parameter_name(tensor.name)
            if name not in shapes:
                raise ModelError(f"{path}: the tensor {tensor.name} has no place in a Llama model; it is not ignored")
            weights[name] = _read_tensor(tensor, name, config)
            if tuple(weights[name].shape) != shapes[name]:
                raise ModelError(
                    f"{path}: expected {tensor.name} of {shapes[name]}; found {tuple(weights[name].shape)}"
                )
            bar.advance()
    if config.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    missing = sorted(shapes.keys() - weights.keys())
    if missing:
        raise ModelError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]}")
    return _fill(config, weights)


def _fill(config: LlamaConfig, weights: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    """Return a model that holds these very tensors; buffers such as RoPE's frequencies are computed, not loaded."""
    with quiet_transformers():
        model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)
    return model.eval()


def _parameter_name(name: str) -> str:
    """``"blk.0.attn_q.weight"`` to ``"model.layers.0.self_attn.q_proj.weight"``; empty for an unknown name."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_TENSORS:
        return f"{_TOP_TENSORS[stem]}.{kind}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER_TENSORS:
        return f"model.layers.{parts[1]}.{_LAYER_TENSORS[parts[2]]}.{kind}"
    return ""


def _read_tensor(tensor: Any, name: str, config: LlamaConfig) -> torch.Tensor:
    values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=True)
    if name.endswith("q_proj.weight"):
        values = _restore_rope_order(values, config.num_attention_heads)
    elif name.endswith("k_proj.weight"):
        values = _restore_rope_order(values, config.num_key_value_heads)
    return torch.from_numpy(values)


def _restore_rope_order(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of query and key rows, (num_heads * head_size, hidden).

    llama.cpp rotates neighbours (2i, 2i + 1) of a head, transformers pairs (i, i + head_size / 2); its converter
    (``LlamaModel.permute`` in convert_hf_to_gguf.py) interleaves the two halves of each head, and this undoes it.
    """
    num_rows, hidden = rows.shape
    halves = rows.reshape(num_heads, num_rows // num_heads // 2, 2, hidden).swapaxes(1, 2)
    return np.ascontiguousarray(halves.reshape(num_rows, hidden))
