"""Read a Llama-style model from a GGUF file, the format of llama.cpp, into a plain float32 model.

transformers reads the weights and the tokenizer; what its reader loses or adds without an error is mended here:

- GGUF only names the pre-tokenizer (``tokenizer.ggml.pre``), and the reader does not know SmolLM2's, which splits
  digits. Left so, spaces or line breaks before a digit become other tokens, and 1.2 % of real SFT rows other ids.
- Ids that the training framework padded the embedding with would count as tokens.
- The model counts as quantised and cannot be saved; numbers of the config are float32 roundings of what was meant.
- A stored chat template may add a system prompt of its own; it is left out.
- Other files beside the GGUF, such as a ``tokenizer.json``, would win over what it holds; they are kept away.

What the reader would skip or guess is refused beforehand by the file's own metadata: other architectures,
pre-tokenizers, settings and tensors. One line of SmolLM2's: ``tokenizer.ggml.pre = "smollm"``; one of its tensors:
``blk.0.attn_q.weight`` of (576, 576) in Q4_1.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from genesis_sft.checkpoint.quiet import quiet_transformers
from genesis_sft.console import say
from genesis_sft.errors import ModelError

_BYTE_LEVEL = ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
# How text is split before merges apply, as llama.cpp defines these names (src/llama-vocab.cpp); others are refused.
_PRE_TOKENIZERS = {"smollm": Sequence([Digits(individual_digits=True), _BYTE_LEVEL]), "gpt-2": _BYTE_LEVEL}
# head_count_kv too: without it the reader leaves query and key rows in llama.cpp's order
_SIZES = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
)
_REQUIRED = (
    "llama.attention.layer_norm_rms_epsilon",
    *(f"tokenizer.ggml.{x}" for x in ("tokens", "token_type", "merges")),
)
_OF_THE_READER = ("_name_or_path", "_model_name_or_path", "unk_token_id", "quantization_config", "transformers_version")


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the model in float32 and eval mode, and its tokenizer without a chat template.

    Raises:
        ModelError: The file is damaged, or holds something that is not understood.
    """
    metadata, shapes = _read_header(path)
    _refuse_unknown(path, metadata)
    say(f"reading {path.name}")
    with _reading(path) as source:
        config = _plain_config(path, AutoConfig.from_pretrained(**source), metadata)
        _refuse_other_tensors(path, config, shapes)
        tokenizer = _plain_tokenizer(path, AutoTokenizer.from_pretrained(**source), metadata)
        weights = _load_weights(path, source, config)
        # takes over the tensors as they are, and computes what no file holds, such as RoPE's frequencies
        model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)
    return model.eval(), tokenizer


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the metadata, and the shape of each tensor in torch's order, by GGUF's names."""
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ModelError(f"{path} cannot be read as GGUF; it may have been cut off: {error}") from None
    return metadata, {tensor.name: tuple(map(int, reversed(tensor.shape))) for tensor in reader.tensors}


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
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ModelError(
            f"{path}: its tokenizer is of kind {kind!r} with pre-tokenizer {pre!r}; a GGUF file does not say how "
            f"that one splits text, and this version knows only 'gpt2' with {' or '.join(map(repr, _PRE_TOKENIZERS))}",
            hint="Name the Hugging Face folder of the model, whose tokenizer.json says it.",
        )
    for key in (*(f"llama.{size}" for size in _SIZES), *_REQUIRED):
        if key not in metadata:
            raise ModelError(f"{path} cannot be used: its metadata has no {key!r}")
    for key in (f"llama.{size}" for size in _SIZES):
        if not isinstance(metadata[key], int) or metadata[key] < 1:
            raise ModelError(f"{path}: expected one number of at least 1 as {key}; found {metadata[key]!r}")
    head_size = metadata["llama.embedding_length"] // metadata["llama.attention.head_count"]
    sizes = [metadata.get(f"llama.{key}", head_size) for key in ("rope.dimension_count", "attention.key_length")]
    if sizes != [head_size, head_size]:
        raise ModelError(f"{path}: expected RoPE over whole heads of size {head_size}; found {sizes[0]} of {sizes[1]}")


@contextmanager
def _reading(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the arguments that name the file to transformers, alone in a folder: its neighbours would be read too.

    Bars and warnings stay out of the terminal: the bar of dequantising heeds none of transformers' settings.
    """
    name = "model.gguf"
    with TemporaryDirectory() as folder, quiet_transformers(), redirect_stderr(io.StringIO()):
        try:
            Path(folder, name).symlink_to(path.resolve())
            yield {
                "pretrained_model_name_or_path": folder,
                "gguf_file": name,
                "local_files_only": True,
                "trust_remote_code": False,
            }
        except ModelError:
            raise
        except Exception as error:  # the reader has no error of its own; whatever it met, this file cannot be used
            raise ModelError(f"{path}: transformers cannot read it: {type(error).__name__}: {error}") from None


def _plain_config(path: Path, loaded: Any, metadata: dict[str, Any]) -> LlamaConfig:
    """Return the config that was read without the reader's own marks, and with numbers as they were meant."""
    if type(loaded) is not LlamaConfig:  # a file whose general.name is "mistral" becomes another class
        raise ModelError(f"{path}: expected a Llama-style model; transformers takes it for {loaded.model_type}")
    kept = {key: value for key, value in loaded.to_dict().items() if key not in _OF_THE_READER}
    # an id that the file does not state would become LlamaConfig's default
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        kept[f"{name}_token_id"] = metadata.get(f"tokenizer.ggml.{key}_token_id")
    kept["rms_norm_eps"] = _shortest(loaded.rms_norm_eps)
    kept["rope_parameters"] = {"rope_type": "default", "rope_theta": _shortest(loaded.rope_parameters["rope_theta"])}
    return LlamaConfig.from_dict(kept)


def _shortest(value: float) -> float:
    """Return the shortest decimal of a float32: GGUF's 9.999999747378752e-06 was written as 1e-05."""
    return float(str(np.float32(value)))


def _refuse_other_tensors(path: Path, config: LlamaConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a tensor too many, which the reader would skip, too few, which would stay random, or of another shape."""
    with torch.device("meta"):
        state = LlamaForCausalLM(config).state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    places = {f"{names.get_name(name.removesuffix('.weight'))}.weight": name for name in state}
    for stored, shape in shapes.items():
        if stored not in places:
            raise ModelError(f"{path}: the tensor {stored} has no place in a Llama model; it is not ignored")
        if shape != (expected := tuple(state[places[stored]].shape)):
            raise ModelError(f"{path}: expected {stored} of {expected}; found {shape}")
    missing = sorted(name for stored, name in places.items() if stored not in shapes)
    if missing:
        raise ModelError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]}")


def _load_weights(path: Path, source: dict[str, Any], config: LlamaConfig) -> dict[str, torch.Tensor]:
    """Return the tensors that transformers reads, by its names, in float32; the model around them is let go."""
    model, found = AutoModelForCausalLM.from_pretrained(
        **source, config=config, dtype=torch.float32, output_loading_info=True
    )
    faults = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    if faults:
        raise ModelError(f"{path}: transformers could not place all of its tensors: {faults}")
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def _plain_tokenizer(path: Path, loaded: Any, metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return the tokenizer that was read, with the pre-tokenizer that the file names and no tokens but the file's."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    tokenizer = Tokenizer.from_str(json.dumps(_only_tokens_of_the_file(path, loaded, metadata)))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]]
    named = {
        f"{name}_token": tokens[metadata[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in metadata
    }
    adds = {f"add_{end}_token": True for end in ("bos", "eos") if metadata.get(f"tokenizer.ggml.add_{end}_token")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, **adds)


def _only_tokens_of_the_file(path: Path, loaded: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer's state without unused ids, and without GPT-2's special token where the file has none."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds = dict(zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True))
    unused = {token for token, kind in kinds.items() if kind == gguf.TokenType.UNUSED}
    whole = {token for token, kind in kinds.items() if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)}
    state: dict[str, Any] = json.loads(loaded.backend_tokenizer.to_str())
    vocab = {token: i for token, i in state["model"]["vocab"].items() if token not in unused}
    added = [token for token in state["added_tokens"] if token["content"] in whole]
    # the reader respells tokens outside of the byte-level alphabet, and then cuts them into pieces
    as_stated = {token for i, token in enumerate(tokens) if vocab.get(token) == i}
    lost = (set(tokens) - unused - as_stated) | (whole - {token["content"] for token in added})
    if lost:
        raise ModelError(
            f"{path}: transformers reads {len(lost)} of its tokens otherwise than "
            f"the file has them, such as {min(lost)!r}",
            hint="Name the Hugging Face folder of the model, whose tokenizer.json has them.",
        )
    return state | {"model": state["model"] | {"vocab": vocab}, "added_tokens": added, "post_processor": None}
