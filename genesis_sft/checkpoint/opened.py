"""A Llama-style model as it lies there: its tensors by role, its tokenizer, and what is stated of its conventions.

It may be a pretraining checkpoint, for which the recipe, the run's own settings or nobody states a convention; or a
Hugging Face model, whose config states them all, rightly or wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genesis_sft.checkpoint.diagnosis.candidates import head_counts
from genesis_sft.checkpoint.llama.conventions import Conventions, Head, RopeLayout
from genesis_sft.checkpoint.llama.name_rules import read_name_rules
from genesis_sft.checkpoint.llama.names import map_names, name_table
from genesis_sft.checkpoint.llama.settings import StatedSettings, read_settings
from genesis_sft.checkpoint.llama.sizes import Sizes, correct_by_shape, infer_sizes, refuse_single_transposed
from genesis_sft.checkpoint.llama.slots import NameMap, Slot
from genesis_sft.checkpoint.llama.stored import StoredLlama
from genesis_sft.checkpoint.tensors.open import open_tensors
from genesis_sft.checkpoint.tensors.source import StoredTensor, TensorSource
from genesis_sft.checkpoint.tokenizer_files import find_tokenizer, has_dummy_prefix, puts_bos, read_tokenizer
from genesis_sft.errors import ModelError
from genesis_sft.recipe.sections import BaseSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DEFAULT_CONTEXT = 2048
_USUAL_HEAD_SIZE = 128
_META_NAMES = ("wq", "wk", "tok_embeddings", "feed_forward")
MUST_BE_KNOWN = ("num_heads", "num_kv_heads", "rope_layout", "rope_theta", "norm_eps")
"""Conventions without which nothing is written: a usual value of the others, or what the tokenizer and the tensors
themselves suggest, is right more often than not, and the search changes it where it is not."""

_MAY_BE_ASSUMED = ("bos", "tied", "embedding_scale")


@dataclass(frozen=True)
class OpenedLlama:
    """A stored model with its tokenizer.

    Attributes:
        stored: The tensors by role.
        tokenizer: As it lies there.
        stated: The conventions; what nobody stated is the most usual value.
        unknown: The fields of ``stated`` that nobody stated.
        context: Longest sequence in training, tokens; None if nobody says.
        faults: What the shapes alone show to be wrong, in words; already mended in ``stored``.
        names: The table of names, for the terminal; "" for a Hugging Face model.
    """

    stored: StoredLlama
    tokenizer: PreTrainedTokenizerFast
    stated: Conventions
    unknown: frozenset[str]
    context: int | None
    faults: tuple[str, ...] = ()
    names: str = ""


def open_checkpoint(section: BaseSection) -> OpenedLlama:
    """Open a pretraining checkpoint.

    Args:
        section: ``model`` is the checkpoint.

    Raises:
        ModelError: It cannot be read, is not Llama-style, or contradicts what is stated of it.
        CheckFailed: Its tensors contradict each other.
    """
    path = Path(section.model)
    source = open_tensors(path)
    tokenizer_file = find_tokenizer(section.tokenizer, path)
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    rules = read_name_rules(Path(section.names)) if section.names else None
    names, faults = correct_by_shape(map_names(shapes, rules, section.root), shapes)
    refuse_single_transposed(names, shapes)
    sizes = infer_sizes(names, shapes)
    stored = StoredLlama(source, names, sizes, keep=True)
    settings = read_settings(Path(section.config)) if section.config else StatedSettings()
    _refuse_other_sizes(settings, sizes, section.config)
    tokenizer = read_tokenizer(tokenizer_file)
    stated, unknown = _state(section, settings, stored, tokenizer)
    context = section.conventions.context or settings.context
    return OpenedLlama(stored, tokenizer, stated, unknown, context, faults, name_table(names, source.tensors))


def open_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> OpenedLlama | None:
    """Return a Hugging Face model seen the same way; None if it is not a plain Llama.

    Its tensors stay where they are.
    """
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    is_plain = config.model_type == "llama" and rope.get("rope_type", "default") == "default"
    if not is_plain or config.hidden_act not in ("silu", "swish"):
        return None
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not (is_tied and "lm_head" in name)}
    source = InMemory(tensors)
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    names = map_names(shapes)
    stored = StoredLlama(source, names, infer_sizes(names, shapes))
    stated = Conventions(
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        rope_layout="half_split",
        rope_theta=float(rope["rope_theta"]),
        norm_eps=float(config.rms_norm_eps),
        head="embedding" if is_tied else "own",
        bos=puts_bos(tokenizer),
        dummy_prefix=has_dummy_prefix(tokenizer.backend_tokenizer),
    )
    return OpenedLlama(stored, tokenizer, stated, frozenset(), config.max_position_embeddings)


class InMemory:
    """The tensors of a model that is in memory, as a source like any other."""

    kind, path = "model in memory", Path()
    left_out: Mapping[str, int] = {}

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = dict(tensors)
        self.tensors = {name: StoredTensor(tuple(t.shape), t.dtype) for name, t in tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor itself, not a copy."""
        return self._tensors[name]


def _state(
    section: BaseSection, settings: StatedSettings, stored: StoredLlama, tokenizer: PreTrainedTokenizerFast
) -> tuple[Conventions, frozenset[str]]:
    """Return the conventions, and the names of those that nobody stated."""
    given = section.conventions.model_dump() | {}
    said = {name: value for name in given if (value := _first(given[name], getattr(settings, name, None))) is not None}
    num_heads, num_kv_heads = _heads(said, settings.head_dim, stored.sizes)
    unknown = {name for name in (*MUST_BE_KNOWN, *_MAY_BE_ASSUMED) if name not in said}
    unknown = {"head" if name == "tied" else name for name in unknown}
    if num_heads is not None:
        unknown -= {"num_heads", "num_kv_heads"}
    else:
        num_heads, num_kv_heads = _usual_heads(stored.sizes)
    conventions = Conventions(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        rope_layout=said.get("rope_layout", _usual_layout(stored.names)),
        rope_theta=float(said.get("rope_theta", 10_000.0)),
        norm_eps=float(said.get("norm_eps", 1e-5)),
        head=_head(said.get("tied"), stored),
        embedding_scale=float(said.get("embedding_scale", 1.0)),
        bos=bool(said.get("bos", puts_bos(tokenizer))),
        dummy_prefix=has_dummy_prefix(tokenizer.backend_tokenizer),
    )
    return conventions, frozenset(unknown)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _heads(said: Mapping[str, Any], head_size: int | None, sizes: Sizes) -> tuple[int, int] | tuple[None, int]:
    """Return (query heads, key-value heads) if any two of heads, head size and the stored widths say so."""
    num_heads = said.get("num_heads") or (sizes.q_width // head_size if head_size else None)
    if num_heads is None and (kv_heads := said.get("num_kv_heads")):
        num_heads = sizes.q_width // max(1, sizes.kv_width // kv_heads)
    if num_heads is None:
        return None, 0
    size = sizes.q_width // num_heads
    num_kv_heads = said.get("num_kv_heads") or sizes.kv_width // max(1, size)
    fits = (sizes.q_width, sizes.kv_width) == (num_heads * size, num_kv_heads * size)
    if not fits or size % 2 or num_heads % num_kv_heads or sizes.hidden_size % num_heads:
        raise ModelError(
            f"{num_heads} query heads and {num_kv_heads} key-value heads do not fit the stored widths: "
            f"query {sizes.q_width}, key and value {sizes.kv_width}, hidden {sizes.hidden_size}",
            hint=f"These fit: {', '.join(f'{q} and {kv}' for q, kv in head_counts(sizes)) or 'none'}.",
        )
    return num_heads, num_kv_heads


def _usual_heads(sizes: Sizes) -> tuple[int, int]:
    """Return the counts with the largest head size up to 128: sizes 128 and 64 are the most usual."""
    fitting = head_counts(sizes)
    if not fitting:
        raise ModelError(
            f"expected a query and a key width with a common even head size; found {sizes.q_width} and {sizes.kv_width}"
        )
    usual = [counts for counts in fitting if sizes.q_width // counts[0] <= _USUAL_HEAD_SIZE]
    return usual[-1] if usual else fitting[0]


def _usual_layout(names: NameMap) -> RopeLayout:
    is_meta = any(part in name.split(".") for name in names.slots.values() for part in _META_NAMES)
    return "interleaved" if is_meta else "half_split"


def _head(tied: bool | None, stored: StoredLlama) -> Head:
    """Return which head to take: what is stated, or else by value."""
    if not stored.sizes.has_head:
        if tied is False:
            raise ModelError(
                "expected an output head among the tensors, as the model is stated not to be tied; there is none",
                hint="If embedding and head are one matrix, state tied: true.",
            )
        return "embedding"
    if tied is not None:
        return "embedding" if tied else "own"
    embedding, head = (stored.source.read(stored.names.slots[Slot(role)]) for role in ("embedding", "head"))
    return "embedding" if torch.equal(embedding, head) else "own"


def _refuse_other_sizes(settings: StatedSettings, sizes: Sizes, config: str | None) -> None:
    for name in ("hidden_size", "num_layers", "ffn_size", "vocab_size"):
        stated, found = getattr(settings, name), getattr(sizes, name)
        if stated is not None and stated != found:
            raise ModelError(
                f"{config} says {name} {stated:,}, the tensors show {found:,}",
                hint="Is it the config of another run? Without it, sizes come from the tensors.",
            )


def describe_source(source: TensorSource) -> str:
    """Return one line on where the tensors come from and what was left alone."""
    total = sum(_num_bytes(tensor) for tensor in source.tensors.values())
    left = "".join(f"; left out: {count:,} entries ({what})" for what, count in source.left_out.items())
    return f"{source.kind} {source.path.name}: {len(source.tensors)} tensors, {total / 1e9:.2f} GB{left}"


def _num_bytes(tensor: StoredTensor) -> int:
    size = tensor.dtype.itemsize
    for side in tensor.shape:
        size *= side
    return size
