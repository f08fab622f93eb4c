"""The proof that a converted tokenizer gives the ids that sentencepiece itself gives, on many texts of many kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genesis_sft.checkpoint.sentencepiece.markers import is_marker
from genesis_sft.checkpoint.sentencepiece.model_file import SPACE, ModelFile, load_processor, read_model_file
from genesis_sft.checkpoint.sentencepiece.proof_texts import proof_texts
from genesis_sft.checkpoint.sentencepiece.unigram import path_score
from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BATCH = 1000
_ROUNDING = 2.0**-23  # relative spacing of float32
_SHOWN_BEFORE, _SHOWN = 3, 8  # ids around a difference

Verdict = Literal["equal", "exempt", "tie", "different"]


@dataclass(frozen=True)
class IdProof:
    """How often sentencepiece and the fast tokenizer gave the same ids.

    Attributes:
        num_texts: All texts that were given.
        num_tokens: Ids of those that were compared, as sentencepiece counts them.
        num_exempt: Texts left out, since the two differ by design: they spell the name of a control token, which
            sentencepiece reads as text, or begin with a marker, which sentencepiece puts a space in front of.
        first_difference: The first text with other ids, and the ids around the place; None if there is no such text.
        num_ties: Texts of a unigram model that can be cut in two ways of the same score. SentencePiece adds up in
            float32, so that rounding decides between them, which nothing else can repeat.
    """

    num_texts: int
    num_tokens: int
    num_exempt: int
    first_difference: str | None
    num_ties: int = 0

    @property
    def holds(self) -> bool:
        """Whether no text has other ids."""
        return self.first_difference is None


def require_same_ids(model_file: Path, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str] = ()) -> IdProof:
    """Prove that the ids are the same, or raise.

    Args:
        model_file: The SentencePiece model.
        tokenizer: The fast tokenizer that was made from it.
        texts: More texts, best the model's own kind of text.

    Raises:
        ModelError: A text has other ids.
    """
    proof = prove_same_ids(model_file, tokenizer, texts)
    if proof.first_difference is not None:
        raise ModelError(
            f"expected the ids that sentencepiece gives with {model_file}; the fast tokenizer gives others: "
            f"{proof.first_difference}",
            hint="A model that sees other ids than in its training predicts badly; use a tokenizer.json that is known "
            "to fit this model, if there is one.",
        )
    return proof


def prove_same_ids(model_file: Path, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str] = ()) -> IdProof:
    """Compare the ids of the texts of this package, of the model's own pieces put together, and of ``texts``.

    Args:
        model_file: The SentencePiece model.
        tokenizer: A fast tokenizer; special tokens that it puts around texts are left away.
        texts: More texts to compare on.

    Raises:
        ModelError: The model file cannot be read.
    """
    comparer = _Comparer(read_model_file(model_file), tokenizer)
    own_pieces = [piece.replace(SPACE, " ") for piece in comparer.file.of_kind("normal", "user_defined")]
    num_texts = num_tokens = 0
    counts: dict[Verdict, int] = dict.fromkeys(("equal", "exempt", "tie", "different"), 0)
    first_difference = None
    for batch in _batches(proof_texts(own_pieces), texts):
        for text, expected, found in comparer.encode(batch):
            verdict = comparer.judge(text, expected, found)
            counts[verdict] += 1
            num_texts += 1
            num_tokens += len(expected) if verdict != "exempt" else 0
            if verdict == "different" and first_difference is None:
                first_difference = comparer.describe(text, expected, found)
    return IdProof(num_texts, num_tokens, counts["exempt"], first_difference, counts["tie"])


def _batches(*sources: Iterable[str]) -> Iterator[list[str]]:
    for source in sources:
        texts = iter(source)
        while batch := list(islice(texts, _BATCH)):
            yield batch


class _Comparer:
    """Both tokenizers of one model file."""

    def __init__(self, file: ModelFile, tokenizer: PreTrainedTokenizerFast) -> None:
        self.file = file
        self._processor: Any = load_processor(file.content, file.path)
        self._fast = tokenizer.backend_tokenizer
        added = self._fast.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special]
        self._markers = tuple(token.content for token in added if not token.special and is_marker(token.content))

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[str, list[int], list[int]]]:
        """Yield each text with sentencepiece's ids and the fast tokenizer's."""
        fast = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
        for text, expected, found in zip(texts, self._processor.encode(list(texts)), fast, strict=True):
            yield text, expected, found.ids

    def judge(self, text: str, expected: list[int], found: list[int]) -> Verdict:
        if any(name in text for name in self._special):
            return "exempt"
        if expected == found:
            return "equal"
        if self.file.dummy_prefix and self._normalize(text).startswith(self._markers):
            return "exempt"
        return "tie" if self._is_tie(expected, found) else "different"

    def describe(self, text: str, expected: list[int], found: list[int]) -> str:
        """Return the text, and both lists of ids around the first place where they differ."""
        pairs = enumerate(zip(expected, found, strict=False))
        place = next((at for at, (one, other) in pairs if one != other), min(len(expected), len(found)))
        around = slice(max(0, place - _SHOWN_BEFORE), place + _SHOWN)

        def show(ids: list[int]) -> str:
            names = " ".join(repr(self._fast.id_to_token(id)) for id in ids[around])
            return f"{ids[around]} ({names})"

        shown = text if len(text) <= 200 else f"{text[:200]}…"
        return f"{shown!r}, from id {around.start} on: sentencepiece {show(expected)}, fast tokenizer {show(found)}"

    def _normalize(self, text: str) -> str:
        normalizer = self._fast.normalizer
        return str(normalizer.normalize_str(text)) if normalizer is not None else text

    def _is_tie(self, expected: list[int], found: list[int]) -> bool:
        """Say whether two ways to cut a text have the same score, as far as float32 can tell."""
        if self.file.algorithm != "unigram" or self._unscored(expected) != self._unscored(found):
            return False
        one, other = self._score(expected), self._score(found)
        return abs(one - other) <= _ROUNDING * abs(one) * (len(expected) + len(found))

    def _unscored(self, ids: list[int]) -> list[int]:
        return [id for id in ids if self.file.pieces[id].kind not in ("normal", "user_defined")]

    def _score(self, ids: list[int]) -> float:
        pieces = (self.file.pieces[id] for id in ids)
        return sum(path_score(piece) for piece in pieces if piece.kind in ("normal", "user_defined"))
