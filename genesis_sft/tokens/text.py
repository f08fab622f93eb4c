"""Text to ids and back on a path that cannot produce a control token, whatever the text says.

A tokenizer looks for its added tokens in every text it is given, so that ``<|im_end|>`` typed by a user ends the user's
turn. Switching that off for special tokens alone is not enough: added tokens need not be special, and the model behind
the tokenizer may have their names in its vocabulary and find them there. So text goes through copies of the tokenizer
(`control_free`) that have none of these added tokens, and in whose vocabulary their names begin with a plain space,
which no tokenizer looks up: all of them replace spaces (``▁``, ``Ġ``) or split at them. That this holds is tried out on
hostile strings when a copy is made, and checked on every text that is encoded.

Some added tokens are no markers but plain text that is kept whole, such as a line break, a digit or ``"def "``
(SentencePiece calls them user-defined symbols). They are not special, and pretraining saw them wherever that text
stands. They stay in the copies, so that text is encoded as it was then.

Tokenizers converted from SentencePiece put a space in front of what they are given. Text in the middle of a turn must
not get one. Text right after a control token gets one if, and only if, the tokenizer itself puts one there, which is
found out by trying: so ids are the same as through the chat template, in training, evaluation and other programs.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from genesis_sft.errors import ModelError
from genesis_sft.tokens.control_free import copy_without, find_unknown_id, plain_text
from genesis_sft.tokens.engine import Engine, FlatIds, ReferenceEngine, find_engine, first_difference, interleave

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_KEPT = 8
_kept: dict[str, TextTokenizer] = {}


class TextTokenizer:
    """Encodes text without control tokens; decodes ids. Can be pickled, and needs no transformers then.

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
        backend = _backend_of(tokenizer)
        serialised = backend.to_str()
        state = json.loads(serialised)
        _require_added(control_tokens, [token["content"] for token in state["added_tokens"]])
        self.special_ids = frozenset(
            token["id"] for token in state["added_tokens"] if token["special"] or token["content"] in control_tokens
        )
        self.special_ids |= frozenset(tokenizer.all_special_ids)
        plain = {id for id, name in plain_text(state["added_tokens"]).items() if id not in self.special_ids}
        self.added = {
            int(token["id"]): str(token["content"]) for token in state["added_tokens"] if token["id"] not in plain
        }
        self.forbidden = frozenset(self.added) | self.special_ids
        unknown = find_unknown_id(state["model"])
        if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
            self.forbidden -= {unknown}
        self._inside = copy_without(serialised, self.added, prefix=False)
        self._after_control = self._inside
        self._has_prefix = not _agree_after_control(backend, self._inside, control_tokens)
        if self._has_prefix:
            self._after_control = copy_without(serialised, self.added, prefix=True)
            _require_agreement(backend, self._after_control, control_tokens)
        self._is_forbidden = np.zeros(1 + max([*backend.get_vocab().values(), *self.forbidden]), bool)
        self._is_forbidden[list(self.forbidden)] = True
        self._references = tuple(ReferenceEngine(each) for each in (self._inside, self._after_control))
        self._engines: tuple[Engine, Engine] | None = None
        self._try_hostile_texts()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, control_tokens: Sequence[str]) -> TextTokenizer:
        """Return the one that was made before for a tokenizer with the same content, or make it."""
        special = (tokenizer.all_special_ids, tokenizer.eos_token_id, tokenizer.bos_token_id, list(control_tokens))
        key = hashlib.sha256((_backend_of(tokenizer).to_str() + json.dumps(special)).encode()).hexdigest()
        if key not in _kept:
            made = cls(tokenizer, control_tokens)
            if len(_kept) >= _MAX_KEPT:
                del _kept[next(iter(_kept))]
            _kept[key] = made
        return _kept[key]

    @property
    def engines(self) -> tuple[Engine, Engine]:
        """What encodes text in the middle of a turn, and right after a control token; proven when first asked for."""
        if self._engines is None:
            inside = find_engine(self._inside)
            self._engines = inside, find_engine(self._after_control) if self._has_prefix else inside
        return self._engines

    def with_reference(self, note: str) -> TextTokenizer:
        """Return a copy that encodes with the reference engine only; the note says why."""
        other = copy.copy(self)
        other._engines = ReferenceEngine(self._inside, note), ReferenceEngine(self._after_control, note)
        return other

    def encode(self, texts: Sequence[str], *, after_control: bool = False) -> list[list[int]]:
        """Return the ids of each text.

        Args:
            texts: Any text; control tokens in it are text like any other.
            after_control: Whether the texts stand right after a control token, not in the middle of a turn.

        Raises:
            ModelError: A text gave a control token; nothing is ever let through.
        """
        ids, lengths = self.encode_flat(texts, np.full(len(texts), after_control))
        stops = lengths.cumsum().tolist()
        every = ids.tolist()
        return [every[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    def encode_flat(
        self, texts: Sequence[str], after_control: np.ndarray[Any, np.dtype[np.bool_]], *, fast: bool = False
    ) -> FlatIds:
        """Return the ids of all texts end to end, uint32 (tokens,), and how many each has, int64 (texts,).

        Args:
            texts: Any text; control tokens in it are text like any other.
            after_control: Whether a text stands right after a control token, not in the middle of a turn: (texts,).
            fast: Whether to use the fastest engine that was proven; it takes seconds to prove one.

        Raises:
            ModelError: A text gave a control token; nothing is ever let through.
        """
        ids, lengths = self._encode(texts, after_control, self.engines if fast else self._references)
        wrong = self._is_forbidden[ids]
        if wrong.any():
            place = int(wrong.argmax())
            text = texts[int(np.searchsorted(lengths.cumsum(), place, side="right"))]
            found = self.added.get(int(ids[place]), "a special token")
            raise ModelError(
                f"expected a tokenizer that keeps text apart from control tokens; this one turns the text "
                f"{text[:60]!r} into {found!r}",
                hint="Training on text that acts as control tokens is not safe; use another tokenizer.",
            )
        return ids, lengths

    def first_difference(self, texts: Sequence[str], after_control: np.ndarray[Any, np.dtype[np.bool_]]) -> str | None:
        """Return the first text that the fast engine encodes otherwise than the reference, if there is one."""
        for engine, reference, chosen in zip(
            self.engines, self._references, (~after_control, after_control), strict=True
        ):
            own = [texts[place] for place in np.flatnonzero(chosen).tolist()]
            if engine.name != reference.name and (found := first_difference(engine, reference, own)) is not None:
                return found
        return None

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

    def _encode(
        self, texts: Sequence[str], after_control: np.ndarray[Any, np.dtype[np.bool_]], engines: Sequence[Engine]
    ) -> FlatIds:
        if not self._has_prefix or not after_control.any():
            return engines[0].encode(texts)
        if after_control.all():
            return engines[1].encode(texts)
        inside, after = (
            [texts[place] for place in np.flatnonzero(own).tolist()] for own in (~after_control, after_control)
        )
        return interleave(after_control, engines[0].encode(inside), engines[1].encode(after))

    def _try_hostile_texts(self) -> None:
        names = list(self.added.values())
        texts = [
            form.format(name) for name in names for form in ("{0}", " {0}", "a{0}b", "{0}{0}", "\n{0}\n", "{0} {0}")
        ]
        texts.append("".join(names))
        self.encode(texts)
        self.encode(texts, after_control=True)

    def __getstate__(self) -> dict[str, Any]:
        self.engines  # noqa: B018 - proven here, so that no other process has to
        return self.__dict__


def _backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"expected a fast tokenizer, found {type(tokenizer).__name__}", hint="Convert it to a tokenizer.json."
        )
    return backend


def _require_added(tokens: Collection[str], added: Collection[str]) -> None:
    if missing := [token for token in tokens if token not in added]:
        raise ModelError(
            f"expected a tokenizer with the added tokens {', '.join(tokens)}; found none named {', '.join(missing)}",
            hint="The base stage of a run adds them: base/model in a run folder has them.",
        )


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
