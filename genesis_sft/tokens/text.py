"""Text to ids and back on a path that cannot produce a control token, whatever the text says.

A tokenizer looks for its added tokens in every text it is given, so that ``<|im_end|>`` typed by a user ends the user's
turn. Switching that off for special tokens alone is not enough: added tokens need not be special, and the model behind
the tokenizer may have their names in its vocabulary and find them there. So text goes through copies of the tokenizer
that have no added tokens, and in whose vocabulary the names of added tokens begin with a plain space, which no
tokenizer looks up: all of them replace spaces (``▁``, ``Ġ``) or split at them. That this holds is tried out on hostile
strings when a copy is made, and checked on every text that is encoded.

Tokenizers converted from SentencePiece put a space in front of what they are given. Text in the middle of a turn must
not get one. Text right after a control token gets one if, and only if, the tokenizer itself puts one there, which is
found out by trying: so ids are the same as through the chat template, in training, evaluation and other programs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextTokenizer:
    """Encodes text without control tokens; decodes ids.

    Args:
        tokenizer: A fast tokenizer; it is copied, not changed.
        control_tokens: Tokens of the chat template; each must be an added token.

    Attributes:
        added: Id to text of every added token, special or not.
        special_ids: Ids of the special ones, and of the control tokens.
        forbidden: Ids that no text may yield: all added tokens, apart from the unknown token where it means just that.

    Raises:
        ModelError: Not a fast tokenizer, a control token is missing, or text cannot be kept apart from control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control_tokens: Sequence[str]) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"expected a fast tokenizer, found {type(tokenizer).__name__}", hint="Convert it to a tokenizer.json."
            )
        serialised = backend.to_str()
        state = json.loads(serialised)
        self.added = {int(token["id"]): str(token["content"]) for token in state["added_tokens"]}
        self.special_ids = frozenset(token["id"] for token in state["added_tokens"] if token["special"])
        self.special_ids |= frozenset(tokenizer.all_special_ids)
        self.special_ids |= {id for id, name in self.added.items() if name in control_tokens}
        _require_added(control_tokens, self.added)
        self.forbidden = frozenset(self.added) | self.special_ids
        unknown = _find_unknown_id(state["model"])
        if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
            self.forbidden -= {unknown}
        self._inside = _copy_without_added(serialised, prefix=False)
        self._after_control = self._inside
        self._has_prefix = not _agree_after_control(backend, self._inside, control_tokens)
        if self._has_prefix:
            self._after_control = _copy_without_added(serialised, prefix=True)
            _require_agreement(backend, self._after_control, control_tokens)
        self._try_hostile_texts()

    def encode(self, texts: Sequence[str], *, after_control: bool = False) -> list[list[int]]:
        """Return the ids of each text.

        Args:
            texts: Any text; control tokens in it are text like any other.
            after_control: Whether the texts stand right after a control token, not in the middle of a turn.

        Raises:
            ModelError: A text gave a control token; nothing is ever let through.
        """
        copy = self._after_control if after_control else self._inside
        encoded = [encoding.ids for encoding in copy.encode_batch_fast(list(texts), add_special_tokens=False)]
        for text, ids in zip(texts, encoded, strict=True):
            if not self.forbidden.isdisjoint(ids):
                found = self.added.get(next(id for id in ids if id in self.forbidden), "a special token")
                raise ModelError(
                    f"expected a tokenizer that keeps text apart from control tokens; this one turns the text "
                    f"{text[:60]!r} into {found!r}",
                    hint="Training on text that acts as control tokens is not safe; use another tokenizer.",
                )
        return encoded

    def decode(self, ids: Sequence[int], *, after_control: bool = False, show_special: bool = False) -> str:
        """Return the text of ids; special tokens are left out, or shown by name.

        Args:
            ids: Token ids.
            after_control: Whether the ids stand right after a control token.
            show_special: Whether to show special tokens by name.
        """
        parts = []
        after_added = after_control
        for is_added, run in groupby(ids, key=self.added.__contains__):
            if is_added:
                parts += [self.added[id] for id in run if show_special or id not in self.special_ids]
            else:
                text = self._inside.decode(list(run), skip_special_tokens=False)
                parts.append(text.removeprefix(" ") if after_added and self._has_prefix else text)
            after_added = is_added
        return "".join(parts)

    def _try_hostile_texts(self) -> None:
        names = list(self.added.values())
        texts = [
            form.format(name) for name in names for form in ("{0}", " {0}", "a{0}b", "{0}{0}", "\n{0}\n", "{0} {0}")
        ]
        texts.append("".join(names))
        self.encode(texts)
        self.encode(texts, after_control=True)


def _require_added(tokens: Collection[str], added: dict[int, str]) -> None:
    if missing := [token for token in tokens if token not in added.values()]:
        raise ModelError(
            f"expected a tokenizer with the added tokens {', '.join(tokens)}; found none named {', '.join(missing)}",
            hint="The base stage of a run adds them: base/model in a run folder has them.",
        )


def _find_unknown_id(model: dict[str, Any]) -> int | None:
    """Return the id that the tokenizer's model gives to what it does not know, if it has one."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    if model.get("unk_token") is not None and isinstance(model["vocab"], dict):
        return model["vocab"].get(model["unk_token"])
    return None


def _copy_without_added(serialised: str, *, prefix: bool) -> Tokenizer:
    """Return a copy that knows no added tokens; with or without the space that SentencePiece puts in front."""
    state = json.loads(serialised)
    names = {token["content"] for token in state["added_tokens"]}
    state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    _hide_names(state["model"], names)
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


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer, pre-tokenizer or decoder that neither adds a space in front nor takes one away."""
    if part is None or part["type"] == "Prepend" or (part["type"] == "Strip" and part.get("content") == " "):
        return None
    for steps in ("normalizers", "pretokenizers", "decoders"):
        if steps in part:
            return part | {steps: [step for step in map(_without_prefix, part[steps]) if step is not None]}
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    return part | {key: value for key, value in changed.items() if key in part}


def _agree_after_control(backend: Tokenizer, copy: Tokenizer, control_tokens: Sequence[str]) -> bool:
    """Say whether a copy encodes text as the tokenizer does behind a control token."""
    texts = ("user\n", "\n", "\nSo\n", "\n\nSo")
    return all(_ids(backend, token + text)[1:] == _ids(copy, text) for token in control_tokens for text in texts)


def _require_agreement(backend: Tokenizer, copy: Tokenizer, control_tokens: Sequence[str]) -> None:
    if not _agree_after_control(backend, copy, control_tokens):
        raise ModelError(
            "expected control tokens that leave the text beside them alone; in this tokenizer the text behind them is "
            "encoded in a way that it is nowhere else",
            hint="Were they added with lstrip, rstrip or single_word? Add them without.",
        )


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
