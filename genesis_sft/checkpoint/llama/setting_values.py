"""The values of a pretraining config: numbers are numbers in sane ranges, and what no Llama has is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from genesis_sft.checkpoint.llama.name_folding import shown
from genesis_sft.checkpoint.llama.setting_keys import NEGATED, NEOX_FLAGS, Field
from genesis_sft.checkpoint.llama.yaml_file import in_words
from genesis_sft.errors import ModelError

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SCALING = frozenset({"rope_scaling", "scale_rope", "use_scaled_rope", "use_scaled_rotary"})
_PARTIAL = frozenset({"partial_rotary_factor", "rotary_pct", "rotary_percentage", "rotary_percent"})
_ACTIVATION = frozenset({"hidden_act", "activation", "activation_function", "hidden_activation"})
_SILU = frozenset({"silu", "swish", "swiglu"})
_INT_RANGES: dict[Field, tuple[int, int]] = {
    "num_heads": (1, 4096),
    "num_kv_heads": (1, 4096),
    "head_dim": (2, 8192),
    "hidden_size": (1, 1_000_000),
    "num_layers": (1, 99_999),
    "ffn_size": (1, 10_000_000),
    "vocab_size": (1, 100_000_000),
    "context": (1, 1_000_000_000),
}
_FLOAT_RANGES: dict[Field, tuple[float, float]] = {
    "rope_theta": (1.0, 1e12),
    "norm_eps": (1e-15, 1.0),
    "embedding_scale": (1e-6, 1e6),
}
_LAYOUTS: dict[str, Literal["interleaved", "half_split"]] = {
    "interleaved": "interleaved",
    "interleave": "interleaved",
    "gptj": "interleaved",
    "complex": "interleaved",
    "pairs": "interleaved",
    "halfsplit": "half_split",
    "half": "half_split",
    "split": "half_split",
    "neox": "half_split",
    "gptneox": "half_split",
    "rotatehalf": "half_split",
}


def read_value(path: Path, place: str, spelling: str, field: Field, value: Any) -> Any:
    """Return a setting as its field holds it; an embedding scale may stay ``True``.

    Args:
        path: The file, for messages.
        place: The key with the sections around it: ``"model.n_heads"``.
        spelling: The key alone.
        field: What the key means.
        value: What the file says.

    Raises:
        ModelError: The value is of another kind, or out of range.
    """
    if field in _INT_RANGES:
        return _whole_number(path, place, value, *_INT_RANGES[field])
    if field == "embedding_scale" and isinstance(value, bool):
        return value  # becomes a number when the hidden size is known
    if field in _FLOAT_RANGES:
        return _number(path, place, value, *_FLOAT_RANGES[field])
    if field == "rope_layout":
        return _layout(path, place, spelling, value)
    if not isinstance(value, bool):
        raise ModelError(f"{path}: {place}: expected true or false; found {in_words(value)}")
    return not value if spelling in NEGATED else value


def _whole_number(path: Path, place: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise ModelError(f"{path}: {place}: expected a whole number from {least} to {most:,}; found {in_words(value)}")
    return value


def _number(path: Path, place: str, value: Any, least: float, most: float) -> float:
    # YAML 1.1 reads 5e5 as text
    number = float(value) if isinstance(value, str) and len(value) < 40 and _NUMBER.fullmatch(value) else value
    if type(number) not in (int, float) or not least <= number <= most:
        raise ModelError(f"{path}: {place}: expected a number from {least:g} to {most:g}; found {in_words(value)}")
    return float(number)


def _layout(path: Path, place: str, spelling: str, value: Any) -> Literal["interleaved", "half_split"]:
    if isinstance(value, bool):
        return "interleaved" if value != (spelling in NEOX_FLAGS) else "half_split"
    text = re.sub(r"[-_ ]", "", value.lower()) if isinstance(value, str) else ""
    if text not in _LAYOUTS:
        raise ModelError(
            f"{path}: {place}: expected true, false, interleaved or half_split; found {in_words(value)}",
        )
    return _LAYOUTS[text]


def refuse_foreign(path: Path, place: str, spelling: str, value: Any) -> bool:
    """Refuse what would be lost on the way to a Llama of transformers; return whether the key is one of those.

    Raises:
        ModelError: The setting scales RoPE, turns parts of heads only, or names another activation.
    """
    if spelling in _SCALING:
        kind = value.get("rope_type", value.get("type", "of unknown kind")) if isinstance(value, dict) else value
        if kind not in (None, False, "default"):
            raise ModelError(
                f"{path}: {place}: expected plain RoPE; found scaled frequencies ({brief(kind)}), which are not "
                "carried over",
                hint="Was the model pretrained with them? If they only stretch the context afterwards, take out "
                "the line.",
            )
    elif spelling in _PARTIAL and value not in (None, 1):
        raise ModelError(f"{path}: {place}: expected RoPE on whole heads (1.0); found {brief(value)}")
    elif spelling in _ACTIVATION and isinstance(value, str) and value.lower() not in _SILU:
        raise ModelError(f"{path}: {place}: expected the activation of a Llama, silu; found {brief(value)}")
    return spelling in _SCALING or spelling in _PARTIAL or (spelling in _ACTIVATION and isinstance(value, str))


def spelling_of(key: object) -> str:
    """Return a key as the tables spell it; empty for what is no text."""
    return key.strip().lower().replace("-", "_") if isinstance(key, str) else ""


def key_text(key: object) -> str:
    """Return a key for messages."""
    return shown(key) if isinstance(key, str) else in_words(key)


def brief(value: Any) -> str:
    """Return a value for messages: text as it is, everything else in words."""
    return shown(value) if isinstance(value, str) else in_words(value)
