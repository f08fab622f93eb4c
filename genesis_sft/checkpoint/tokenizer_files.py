"""A base model's tokenizer, from whichever file there is: SentencePiece ``.model`` or ``tokenizer.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from genesis_sft.checkpoint.model_dir import TOKENIZER
from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SENTENCEPIECE_NAMES = ("tokenizer.model", "spm.model", "sentencepiece.model", "spiece.model")


def find_tokenizer(named: str | None, checkpoint: Path) -> Path:
    """Return the tokenizer file: the one that was named, or one that lies beside the weights. Needs no torch.

    Raises:
        ModelError: There is none, or several SentencePiece files of which none was named.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    place = Path(named) if named is not None else folder
    if place.is_file():
        return place
    found = [place / name for name in (TOKENIZER, *SENTENCEPIECE_NAMES) if (place / name).is_file()]
    found = found or (sorted(place.glob("*.model")) if place.is_dir() else [])
    if len(found) == 1 or (found and found[0].name == TOKENIZER):
        return found[0]
    what = f"several: {', '.join(path.name for path in found)}" if found else "none"
    raise ModelError(
        f"expected a tokenizer (a SentencePiece .model file or {TOKENIZER}) at {place}; found {what}",
        hint="Name the one that the model was trained with: --tokenizer FILE, or base.tokenizer in a recipe.",
    )


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a file, proven to give SentencePiece's own ids where it comes from there.

    Raises:
        ModelError: The file cannot be read or carried over.
    """
    if file.name.endswith(".json"):
        from genesis_sft.checkpoint.model_dir import load_tokenizer_file

        return load_tokenizer_file(file)
    from genesis_sft.checkpoint.sentencepiece.convert import read_sentencepiece
    from genesis_sft.checkpoint.sentencepiece.proof import require_same_ids

    tokenizer = read_sentencepiece(file, add_bos=False)
    require_same_ids(file, tokenizer)
    return tokenizer


def puts_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer puts its BOS before a raw text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def with_bos(tokenizer: PreTrainedTokenizerFast, wanted: bool) -> PreTrainedTokenizerFast:
    """Return the tokenizer, or a copy of it that does or does not put BOS before a raw text.

    Raises:
        ModelError: BOS is wanted and it has none.
    """
    if puts_bos(tokenizer) == wanted:
        return tokenizer
    if tokenizer.bos_token is None:
        raise ModelError(
            "expected a tokenizer with a BOS token, as the model expects one before every text; it has none"
        )
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    state["post_processor"] = _begin_with(tokenizer.bos_token, tokenizer.bos_token_id) if wanted else None
    return rebuilt(tokenizer, state, add_bos_token=wanted)


def has_dummy_prefix(tokenizer: Tokenizer) -> bool | None:
    """Whether a tokenizer puts a space in front of a text; None for one that does not write spaces as ``▁``."""
    if tokenizer.token_to_id("▁") is None and not any(token.startswith("▁") for token in tokenizer.get_vocab()):
        return None
    ids = tokenizer.encode("a", add_special_tokens=False).ids
    return str(tokenizer.id_to_token(ids[0])).startswith("▁") if ids else None


def with_dummy_prefix(tokenizer: Tokenizer, wanted: bool) -> Tokenizer:
    """Return a copy that does or does not put a space in front of a text."""
    state = json.loads(tokenizer.to_str())
    if not wanted:
        for part in ("normalizer", "pre_tokenizer"):
            state[part] = _without_prefix(state[part])
        return Tokenizer.from_str(json.dumps(state))
    prefix = {"type": "Metaspace", "replacement": " ", "prepend_scheme": "first", "split": False}
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    before = [] if state["normalizer"] is None else [state["normalizer"]]
    after = [] if state["pre_tokenizer"] is None else [state["pre_tokenizer"]]
    state["normalizer"] = {"type": "Sequence", "normalizers": [*before, replace]}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [prefix, spaces, *after]}
    return Tokenizer.from_str(json.dumps(state))


def rebuilt(
    tokenizer: PreTrainedTokenizerFast, state: dict[str, Any], *, add_bos_token: bool
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with another state of its engine and the same special tokens."""
    from transformers import PreTrainedTokenizerFast

    named = {
        name: getattr(tokenizer, name)
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if getattr(tokenizer, name) is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), add_bos_token=add_bos_token, **named
    )


def _begin_with(token: str, id_: int) -> dict[str, Any]:
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    text, pair = ({"Sequence": {"id": letter, "type_id": 0}} for letter in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, first, pair],
        "special_tokens": {token: {"id": token, "ids": [id_], "tokens": [token]}},
    }


def _without_prefix(part: dict[str, object] | None) -> dict[str, object] | None:
    if part is None or part["type"] == "Prepend":
        return None
    for steps in ("normalizers", "pretokenizers"):
        if steps in part:
            kept: Sequence[dict[str, object]] = part[steps]  # type: ignore[assignment]
            return part | {steps: [step for step in map(_without_prefix, kept) if step is not None]}
    return part | {"prepend_scheme": "never"} if "prepend_scheme" in part else part
