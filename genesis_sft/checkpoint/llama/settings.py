"""What the pretraining run's own config file says of the model: JSON or YAML, in whichever spelling.

{"model": {"dim": 1536, "n_heads": 12, "n_kv_heads": 6, "rope_theta": 500000}}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from genesis_sft.checkpoint.llama.setting_keys import (
    DATA_SECTIONS,
    FIELD_OF,
    HIDDEN_OR_FFN,
    ROPE_SECTIONS,
    SECTIONS,
    Field,
)
from genesis_sft.checkpoint.llama.setting_values import brief, key_text, read_value, refuse_foreign, spelling_of
from genesis_sft.checkpoint.llama.yaml_file import in_words, read_yaml
from genesis_sft.errors import ModelError

_ROPE_ONLY = frozenset({"rope_theta", "rope_layout"})
_IN_ROPE = {
    "type": "rope_scaling",
    "rope_type": "rope_scaling",
    "base": "rope_theta",
    "interleaved": "rope_interleaved",
}
_BOS_ONLY = frozenset({"bos"})
_MOST_UNREAD, _DEEPEST = 200, 2


@dataclass(frozen=True)
class StatedSettings:
    """What a pretraining config says; ``None``: it does not say.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Width of one head.
        hidden_size: Width of the residual stream.
        num_layers: Layers.
        ffn_size: Width of gate and up.
        vocab_size: Rows of the embedding.
        context: Longest sequence in tokens.
        rope_theta: Base of RoPE's frequencies.
        norm_eps: Epsilon in RMSNorm.
        embedding_scale: What embeddings are multiplied with; 1 where the file says that they are not.
        rope_layout: Whether RoPE turns neighbouring rows of a head as pairs, or rows half a head apart.
        tied: Whether the head is the embedding.
        bos: Whether every training document began with BOS.
        unread: Keys beside these that were not understood.
    """

    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    ffn_size: int | None = None
    vocab_size: int | None = None
    context: int | None = None
    rope_theta: float | None = None
    norm_eps: float | None = None
    embedding_scale: float | None = None
    rope_layout: Literal["interleaved", "half_split"] | None = None
    tied: bool | None = None
    bos: bool | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Said:
    """One setting as the file states it: at which key, and its value."""

    key: str
    value: Any


def read_settings(path: Path) -> StatedSettings:
    """Read a pretraining config, or the ``config.json`` of a Hugging Face folder.

    Raises:
        ModelError: The file is missing or neither JSON nor YAML, a value is of the wrong kind or out of range, two keys
            contradict each other, or the model has something that a Llama has not (scaled RoPE, another activation).
    """
    values = read_yaml(path, "the pretraining run's config")
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected a mapping of settings; found {in_words(values)}")
    said: dict[Field, _Said] = {}
    unread: list[str] = []
    for prefix, section, fields_here in _sections(values):
        found, rest = _read_section(path, prefix, section, fields_here)
        for field, one in found:
            _add(path, said, field, one)
        unread += rest if found and fields_here != _BOS_ONLY else []
    if not said:
        raise ModelError(
            f"{path}: expected settings of the model; found none",
            hint="It should state some of n_heads, n_kv_heads, rope_theta, norm_eps, tie_embeddings, at the top or "
            "under model:.",
        )
    known = {field: one.value for field, one in said.items()}
    return StatedSettings(
        **known | {"embedding_scale": _scale(path, said)},
        unread=tuple(sorted(set(unread))[:_MOST_UNREAD]),
    )


def _sections(
    values: Mapping[Any, Any], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Mapping[Any, Any], frozenset[str]]]:
    """Yield every level on which settings may lie, and the fields that are read there."""
    everything = frozenset(field.name for field in fields(StatedSettings))
    yield prefix, values, everything
    for key, value in values.items():
        if not isinstance(value, dict):
            continue
        below = f"{prefix}{key_text(key)}."
        if spelling_of(key) in ROPE_SECTIONS:
            yield below, value, _ROPE_ONLY
        elif spelling_of(key) in SECTIONS and depth < _DEEPEST:
            yield from _sections(value, below, depth + 1)
        elif spelling_of(key) in DATA_SECTIONS and depth < _DEEPEST:
            yield below, value, _BOS_ONLY


def _read_section(
    path: Path, prefix: str, section: Mapping[Any, Any], fields_here: frozenset[str]
) -> tuple[list[tuple[Field, _Said]], list[str]]:
    """Return the settings of one level, and its keys that were not understood."""
    found: list[tuple[Field, _Said]] = []
    unread = []
    for key, value in section.items():
        place = f"{prefix}{key_text(key)}"
        spelling = spelling_of(key)
        if fields_here == _ROPE_ONLY:  # where a mapping is RoPE of its own for each kind of layer
            spelling = "rope_scaling" if isinstance(value, dict) else _IN_ROPE.get(spelling, spelling)
            value = "by kind of layer" if isinstance(value, dict) else value
        field = FIELD_OF.get(spelling) if spelling != HIDDEN_OR_FFN else _hidden_or_ffn(section)
        if refuse_foreign(path, place, spelling, value):
            continue
        if field in fields_here and not (field == "bos" and spelling == "bos" and not isinstance(value, bool | None)):
            if value is not None:
                found.append((field, _Said(place, read_value(path, place, spelling, field, value))))
        elif not isinstance(value, dict) or spelling not in SECTIONS | ROPE_SECTIONS | DATA_SECTIONS:
            unread.append(place)
    return found, unread


def _hidden_or_ffn(section: Mapping[Any, Any]) -> Field:
    """Return what ``hidden_dim`` means on this level: the FFN's width where the hidden size has another key."""
    others = [value for key, value in section.items() if FIELD_OF.get(spelling_of(key)) == "hidden_size"]
    return "ffn_size" if others and section[_key_of(section, HIDDEN_OR_FFN)] not in others else "hidden_size"


def _key_of(section: Mapping[Any, Any], spelling: str) -> Any:
    return next(key for key in section if spelling_of(key) == spelling)


def _add(path: Path, said: dict[Field, _Said], field: Field, one: _Said) -> None:
    before = said.setdefault(field, one)
    if before.value != one.value or isinstance(before.value, bool) != isinstance(one.value, bool):
        raise ModelError(
            f"{path}: expected one {field}; {before.key} says {brief(before.value)} and {one.key} says "
            f"{brief(one.value)}",
            hint="Take out the one that is not true of the checkpoint.",
        )


def _scale(path: Path, said: Mapping[Field, _Said]) -> float | None:
    """Return the embedding's scale as a number; ``true`` is the usual sqrt(hidden size) (Vaswani et al. 2017)."""
    one = said.get("embedding_scale")
    if one is None or not isinstance(one.value, bool):
        return None if one is None else float(one.value)
    if not one.value:
        return 1.0
    if "hidden_size" not in said:
        raise ModelError(
            f"{path}: {one.key}: expected a number, or a hidden size in the same file whose square root it is; "
            "found true"
        )
    return math.sqrt(said["hidden_size"].value)
