"""Copies of a tokenizer without its markers: no text can reach a marker's id, and every other id stays what it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from tokenizers import Tokenizer

from genesis_sft.checkpoint.sentencepiece.character_rules import DROPPED_FIRST
from genesis_sft.checkpoint.sentencepiece.markers import is_marker


def find_unknown_id(model: dict[str, Any]) -> int | None:
    """Return the id that the tokenizer's model gives to what it does not know, if it has one."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    if model.get("unk_token") is not None and isinstance(model["vocab"], dict):
        return model["vocab"].get(model["unk_token"])
    return None


def plain_text(added_tokens: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Return id and text of the added tokens that are text which is kept whole."""
    return {
        token["id"]: token["content"]
        for token in added_tokens
        if not token["special"] and not is_marker(token["content"])
    }


def copy_without(serialised: str, hidden: dict[int, str], *, prefix: bool) -> Tokenizer:
    """Return a copy that lacks these added tokens; with or without the space that SentencePiece puts in front."""
    state = json.loads(serialised)
    kept = [token for token in state["added_tokens"] if token["id"] not in hidden]
    state |= {"added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
    _hide_names(state["model"], set(hidden.values()))
    for token in kept:
        _give_id(state["model"], token["content"], token["id"])
    state["decoder"] = _without_prefix(state["decoder"])
    if not prefix:
        for part in ("normalizer", "pre_tokenizer"):
            state[part] = _without_prefix(state[part])
    return Tokenizer.from_str(json.dumps(state))


def _hide_names(model: dict[str, Any], names: Collection[str]) -> None:
    """Rename vocabulary entries to what no text can reach; ids stay."""

    def hide(piece: str) -> str:
        return f" {piece}" if piece in names else piece

    if isinstance(model["vocab"], dict):
        model["vocab"] = {hide(piece): id for piece, id in model["vocab"].items()}
    else:
        model["vocab"] = [[hide(piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = hide(model["unk_token"])
    if model.get("merges"):
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        model["merges"] = [pair for pair in pairs if names.isdisjoint((*pair, "".join(pair)))]  # type: ignore[attr-defined]


def _give_id(model: dict[str, Any], name: str, id: int) -> None:
    """Put an added token into the vocabulary, where it is not there: otherwise it would be numbered anew."""
    if isinstance(model["vocab"], dict):
        model["vocab"].setdefault(name, id)
    elif name not in (piece for piece, _ in model["vocab"]):
        lowest = min((score for _, score in model["vocab"]), default=0.0)
        model["vocab"] += [[f" {place}", lowest] for place in range(len(model["vocab"]), id)] + [[name, lowest]]


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer, pre-tokenizer or decoder that neither adds a space in front nor takes one away."""
    if part is None or part["type"] == "Prepend" or (part["type"] == "Strip" and part.get("content") == " "):
        return None
    if part.get("pattern") == {"String": DROPPED_FIRST}:
        return part | {"content": ""}
    for steps in ("normalizers", "pretokenizers", "decoders"):
        if steps in part:
            return part | {steps: [step for step in map(_without_prefix, part[steps]) if step is not None]}
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    return part | {key: value for key, value in changed.items() if key in part}
