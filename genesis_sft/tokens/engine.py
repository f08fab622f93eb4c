r"""Engines: what turns texts into ids. A faster one is used for a tokenizer only after it was proven on it.

`tokenizers` is the reference: whatever it gives is right by definition. `tokie` is some thirty times as fast, and gives
the same ids with many tokenizers, but not with all (it guesses normalizers and pre-tokenizers from a few features), and
not everywhere: of the texts that a GPT-2 pattern splits, those with a form feed, a letter-like number or symbol (``Ⅷ``,
``Ⓐ``) or a tab before an apostrophe come out otherwise, and so may any text of ten thousand bytes. So

- texts with such characters always take the reference,
- long texts are encoded in parts, or by the reference where they cannot be cut (`long_texts`),
- all else must come out equal on thousands of texts written to be hard, before the first text is encoded with it,
- a sample of the real conversations is compared again in every run (`ChatMLEncoder.check_sample`).

One differing id, or any failure, and the reference is used; ``Engine.note`` says why.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from tokenizers import Tokenizer

from genesis_sft.console import say
from genesis_sft.tokens.engine_proofs import Finding, recall, remember
from genesis_sft.tokens.hard_texts import hard_texts
from genesis_sft.tokens.long_texts import cut_long, find_cuts, is_long

FlatIds: TypeAlias = tuple["np.ndarray[Any, np.dtype[np.uint32]]", "np.ndarray[Any, np.dtype[np.int64]]"]

# the first texts are the hardest: most tokenizers that differ are seen to in milliseconds
_FIRST_TEXTS = 200
_TEXTS_PER_BATCH = 4000
_MAX_KEPT = 16
_CONTROLS = bytes(code for code in (*range(32), 127) if chr(code) not in "\t\n\r")
# letters in circles and boxes: symbols that Unicode also lists as alphabetic
_LETTERS_IN_FRAMES = ((0x24B6, 0x24EA), (0x1F130, 0x1F14A), (0x1F150, 0x1F16A), (0x1F170, 0x1F18A))
_kept: dict[str, Engine] = {}


class Engine(Protocol):
    """Turns texts into ids; can be pickled.

    Attributes:
        name: Name of the library.
        note: Why this one, in a line.
    """

    name: str
    note: str

    def encode(self, texts: Sequence[str]) -> FlatIds:
        """Return the ids of all texts end to end, uint32 (tokens,), and how many each has, int64 (texts,)."""
        ...


class ReferenceEngine:
    """The tokenizers library.

    Args:
        tokenizer: Encodes without special tokens.
        note: Why no faster engine is used.
    """

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer, note: str = "") -> None:
        self.tokenizer, self.note = tokenizer, note

    def encode(self, texts: Sequence[str]) -> FlatIds:
        """Return the ids of all texts end to end, uint32 (tokens,), and how many each has, int64 (texts,)."""
        encoded = [found.ids for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.fromiter(itertools.chain.from_iterable(encoded), np.uint32, int(lengths.sum())), lengths


class TokieEngine:
    """The tokie library, with the reference for texts on which it is known to err.

    Args:
        compiled: The tokenizer in tokie's own format, which loads in milliseconds.
        reference: For the other texts.
        note: Why this one, in a line.
        cuts: Where long texts may be cut (`find_cuts`); found out if not given.

    Raises:
        Exception, BaseException: tokie is not installed, or refuses the tokenizer; a panic is no `Exception`.
    """

    name = "tokie"

    def __init__(self, compiled: bytes, reference: ReferenceEngine, note: str = "", cuts: str | None = None) -> None:
        self.note = note
        self.compiled, self._reference = compiled, reference
        self._cuts = find_cuts(reference.tokenizer, _pieces(reference.tokenizer)) if cuts is None else cuts
        self._tokie = _load(compiled)

    def encode(self, texts: Sequence[str]) -> FlatIds:
        """Return the ids of all texts end to end, uint32 (tokens,), and how many each has, int64 (texts,)."""
        parts, starts = cut_long(texts, self._cuts)
        ids, lengths = self._encode_parts(parts)
        if len(parts) > len(texts):
            lengths = np.add.reduceat(lengths, starts)
        return ids, lengths

    def _encode_parts(self, texts: Sequence[str]) -> FlatIds:
        is_awkward = np.fromiter(map(is_long, texts), bool, len(texts))
        is_awkward[find_awkward(texts)] = True
        if not is_awkward.any():
            return self._encode(list(texts))
        awkward, others = (list(itertools.compress(texts, chosen.tolist())) for chosen in (is_awkward, ~is_awkward))
        return interleave(is_awkward, self._encode(others), self._reference.encode(awkward))

    def _encode(self, texts: list[str]) -> FlatIds:
        try:
            ids, lengths = self._tokie.encode_batch_flat(texts, add_special_tokens=False)
        except BaseException as error:  # a panic in Rust is not an Exception; the reference is always right
            _unless_asked_to_stop(error)
            return self._reference.encode(texts)
        assert len(lengths) == len(texts)
        assert lengths.sum() == len(ids)
        return ids, lengths.astype(np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.compiled, self._reference, self.note, self._cuts)


def find_engine(tokenizer: Tokenizer) -> Engine:
    """Return the fastest engine that gives this tokenizer's ids.

    It takes some seconds to find out; for an equal tokenizer it is known then, in later runs too (`engine_proofs`).
    """
    serialised = tokenizer.to_str()
    key = hashlib.sha256(serialised.encode()).hexdigest()
    if key not in _kept:
        if len(_kept) >= _MAX_KEPT:
            del _kept[next(iter(_kept))]
        engine = _recall(tokenizer, serialised)
        if engine is None:
            say("  trying the fast tokenizer engine on this tokenizer: some seconds, once")
            engine = _find_engine(tokenizer, serialised)
            compiled = engine.compiled if isinstance(engine, TokieEngine) else None
            remember(serialised, Finding(engine.note, compiled))
        _kept[key] = engine
    return _kept[key]


def _recall(tokenizer: Tokenizer, serialised: str) -> Engine | None:
    """Return the engine that an earlier run found, if it still loads."""
    if (finding := recall(serialised)) is None:
        return None
    reference = ReferenceEngine(tokenizer)
    if finding.compiled is None:
        reference.note = finding.note
        return reference
    try:
        return TokieEngine(finding.compiled, reference, finding.note)
    except BaseException as error:  # a panic in Rust is not an Exception
        _unless_asked_to_stop(error)
        return None


def first_difference(engine: Engine, reference: Engine, texts: Iterable[str]) -> str | None:
    """Return the first text to which the engine gives other ids than the reference; ``None`` where all are equal."""
    remaining = iter(texts)
    size = _FIRST_TEXTS
    while batch := list(itertools.islice(remaining, size)):
        expected, expected_lengths = reference.encode(batch)
        found, lengths = engine.encode(batch)
        if not (np.array_equal(expected_lengths, lengths) and np.array_equal(expected, found)):
            return next(text for text in batch if not _equal(engine.encode([text]), reference.encode([text])))
        size = _TEXTS_PER_BATCH
    return None


def find_awkward(texts: Sequence[str]) -> list[int]:
    """Return the places of texts that tokie may get wrong: controls, letter-like numbers, the unassigned.

    What Python's Unicode does not know is among them: versions differ in what they take for a letter.
    """
    # most texts are ASCII, and are looked through in one go
    plain = "\n".join([text for text in texts if text.isascii()])
    data = plain.encode()
    if "\t'" in plain or len(data.translate(None, _CONTROLS)) != len(data):
        places = list(range(len(texts)))
    else:
        places = [place for place, text in enumerate(texts) if not text.isascii()]
    chosen = [texts[place] for place in places]
    codes = np.frombuffer("\n".join(chosen).encode("utf-32-le", "surrogatepass"), np.uint32)
    wrong = _awkward_table()[codes]
    wrong[:-1] |= (codes[:-1] == ord("\t")) & (codes[1:] == ord("'"))
    stops = np.fromiter(map(len, chosen), np.int64, len(chosen)).cumsum() + np.arange(1, len(chosen) + 1)
    owners = np.unique(np.searchsorted(stops, np.flatnonzero(wrong), side="right"))
    return [places[owner] for owner in owners.tolist()]


def interleave(is_second: np.ndarray[Any, np.dtype[np.bool_]], first: FlatIds, second: FlatIds) -> FlatIds:
    """Return the ids of texts in their order, of which some were encoded apart.

    Args:
        is_second: For each text, whether its ids are in ``second``: bool (texts,).
        first: Ids and lengths of the others, in order.
        second: Ids and lengths of these, in order.
    """
    lengths = np.empty(len(is_second), np.int64)
    lengths[~is_second], lengths[is_second] = first[1], second[1]
    of_second = np.repeat(is_second, lengths)
    ids = np.empty(len(of_second), np.uint32)
    ids[~of_second], ids[of_second] = first[0], second[0]
    return ids, lengths


@cache
def _awkward_table() -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each code point whether tokie may get it wrong: bool (0x110000,)."""
    table = np.ones(0x110000, bool)  # planes from 4 on are unassigned or private, but for the tags of plane 14
    table[:0x40000] = [_is_awkward(chr(code)) for code in range(0x40000)]
    for start, stop in _LETTERS_IN_FRAMES:
        table[start:stop] = True
    return table


def _is_awkward(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Nl", "Cn", "Co", "Cs") or (category == "Cc" and character not in "\t\n\r")


def _find_engine(tokenizer: Tokenizer, serialised: str) -> Engine:
    reference = ReferenceEngine(tokenizer)
    vocabulary = tokenizer.get_vocab()
    if sorted(set(vocabulary.values())) != list(range(len(vocabulary))):
        reference.note = "tokie takes no tokenizer whose ids have gaps"
        return reference
    try:
        engine = TokieEngine(_compile(serialised), reference)
        difference = first_difference(engine, reference, hard_texts(_pieces(tokenizer)))
    except BaseException as error:  # a panic in Rust is not an Exception
        _unless_asked_to_stop(error)
        reference.note = f"tokie cannot be used: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        return reference
    if difference is not None:
        reference.note = f"tokie gives other ids for {difference[:80]!r}"
        return reference
    engine.note = "tokie gives the same ids as tokenizers on all hard texts"
    return engine


def _compile(serialised: str) -> bytes:
    from tokie import Tokenizer as Tokie

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "tokenizer.json"), Path(folder, "tokenizer.tkz")
        source.write_text(serialised, encoding="utf-8")
        Tokie.from_json(str(source)).save(str(target))
        return target.read_bytes()


def _load(compiled: bytes) -> Any:
    from tokie import Tokenizer as Tokie

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tokenizer.tkz")
        file.write_bytes(compiled)
        return Tokie.from_file(str(file))


def _unpickle(compiled: bytes, reference: ReferenceEngine, note: str, cuts: str) -> Engine:
    return TokieEngine(compiled, reference, note, cuts)


def _pieces(tokenizer: Tokenizer) -> list[str]:
    """Return the text of each id."""
    ids = [[id] for id in range(len(tokenizer.get_vocab()))]
    return list(tokenizer.decode_batch(ids, skip_special_tokens=False))


def _equal(one: FlatIds, other: FlatIds) -> bool:
    return np.array_equal(one[0], other[0])


def _unless_asked_to_stop(error: BaseException) -> None:
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
        raise error
