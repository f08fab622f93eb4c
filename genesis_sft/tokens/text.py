"""Text to ids and back on a path that cannot produce a control token, whatever the text says.

A tokenizer looks for its added tokens in every text it is given, so that ``<|im_end|>`` typed by a user ends the user's
turn. Switching that off for special tokens alone is not enough: added tokens need not be special, and the model behind
the tokenizer may have their names in its vocabulary and find them there. So text goes through copies of the tokenizer
that have none of these added tokens, and in whose vocabulary their names begin with a plain space, which no tokenizer
looks up: all of them replace spaces (``▁``, ``Ġ``) or split at them. That this holds is tried out on hostile strings
when a copy is made, and checked on every text that is encoded.

Some added tokens are no markers but plain text that is kept whole, such as a line break, a digit or ``"def "``
(SentencePiece calls them user-defined symbols). They are not special, and pretraining saw them wherever that text
stands. They stay in the copies, so that text is encoded as it was then.

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

from genesis_sft.checkpoint.sentencepiece.character_rules import DROPPED_FIRST
from genesis_sft.checkpoint.sentencepiece.markers import is_marker
from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextTokenizer:
    """Encodes text without control tokens; decodes ids.

    Args:
        tokenizer: A fast tokenizer; it is copied, not changed.
        control_tokens: Tokens of the chat template; each must be an added token.

    Attributes:
        added: Id to text of every added token that is not plain text, special or not.
        special_ids: Ids of the special ones, and of the control tokens.
        forbidden: Ids that no text may yield: those of ``added``, but the unknown token where it means just that.

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
        _require_added(control_tokens, [token["content"] for token in state["added_tokens"]])
        self.special_ids = frozenset(
            token["id"] for token in state["added_tokens"] if token["special"] or token["content"] in control_tokens
        )
        self.special_ids |= frozenset(tokenizer.all_special_ids)
        plain = {id for id, name in _plain_text(state["added_tokens"]).items() if id not in self.special_ids}
        self.added = {
            int(token["id"]): str(token["content"]) for token in state["added_tokens"] if token["id"] not in plain
        }
        self.forbidden = frozenset(self.added) | self.special_ids
        unknown = _find_unknown_id(state["model"])
        if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
            self.forbidden -= {unknown}
        self._inside = _copy_without(serialised, self.added, prefix=False)
        self._after_control = self._inside
        self._has_prefix = not _agree_after_control(backend, self._inside, control_tokens)
        if self._has_prefix:
            self._after_control = _copy_without(serialised, self.added, prefix=True)
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

    def vocabulary(self) -> list[str]:
        """Return the pieces that text may become, spaces in them as the tokenizer writes them."""
        return list(self._inside.get_vocab(with_added_tokens=False))

    def _try_hostile_texts(self) -> None:
        names = list(self.added.values())
        texts = [
            form.format(name) for name in names for form in ("{0}", " {0}", "a{0}b", "{0}{0}", "\n{0}\n", "{0} {0}")
        ]
        texts.append("".join(names))
        self.encode(texts)
        self.encode(texts, after_control=True)


def _require_added(tokens: Collection[str], added: Collection[str]) -> None:
    if missing := [token for token in tokens if token not in added]:
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


def _plain_text(added_tokens: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Return id and text of the added tokens that are text which is kept whole."""
    return {
        token["id"]: token["content"]
        for token in added_tokens
        if not token["special"] and not is_marker(token["content"])
    }


def _copy_without(serialised: str, hidden: dict[int, str], *, prefix: bool) -> Tokenizer:
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
