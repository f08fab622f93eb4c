"""Benchmark items that stand in conversations: found also where a word in ten was replaced, dropped or added.

::

    item ──> words ──> runs of 4 words: conversations that hold a rare one are looked at
                       runs of 3 words: those of the item that the conversation holds cover some of its words

An item is *touched* by a conversation that covers 60 % of its words in one place, in runs of three that both have.
Others look for runs of 8 words that cover 50 % (Lambert et al. 2024, *Tulu 3*, arXiv:2411.15124), or for one run of 13
(Brown et al. 2020, arXiv:2005.14165, appendix C). Runs as long as that do not outlive small changes in items as short
as these; docs/data.md has the measurements behind the numbers chosen.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.word_hashes import Hashes, hash_runs, hash_words, in_chunks

SEED_WORDS = 4
"""A conversation is compared with an item when they share a run of this many words."""

COVER_WORDS = 3
"""Runs of this many words, which both have, cover words of the item."""

COVERED_SHARE = 0.6
"""Share of the item's words that has to be covered."""

FEWEST_WORDS = 5
"""An item of fewer words is too short to be told from ordinary speech, and is not looked for."""

WHOLE_BELOW = 8
"""An item of fewer words than this has to be covered wholly."""

SHORT_BELOW, SHORT_SHARE = 13, 0.8
"""An item of fewer words has to be covered more: "what is the capital of" is most of a short question."""

COMMON_IN = 32
"""A run of 4 words that more items have ("which of the following is") does not make a conversation worth comparing."""

WITHIN, WITHIN_AT_LEAST = 4, 50
"""The runs have to stand within four times as many words as the item has, or within 50: not all over a long text."""

SEEDS_PER_HIT = 16
"""Of so many rare runs of an item, one has to be found before all are compared; one in two outlives light edits."""

_VERSION = 1
_CONSTANTS = (
    *(_VERSION, SEED_WORDS, COVER_WORDS, COVERED_SHARE, FEWEST_WORDS, WHOLE_BELOW, SHORT_BELOW, SHORT_SHARE),
    *(COMMON_IN, WITHIN, WITHIN_AT_LEAST, SEEDS_PER_HIT),
)

# lower case of ASCII letters, digits, a space for the rest of ASCII; other bytes stay
_FOLDED = bytes((ord(chr(b).lower()) if chr(b).isalnum() else 0x20) if b < 128 else b for b in range(256))
_OTHER_MARKS = re.compile(r"[^\w\x00-\x7f]+")


@dataclass(frozen=True, slots=True)
class Question:
    """What an item of a benchmark asks.

    Attributes:
        task: Name of the harness's task (for MMLU, of the subject), e.g. ``"mmlu_anatomy"``.
        doc_id: Number of the item in the task.
        text: Question and right answer.
    """

    task: str
    doc_id: int
    text: str


class QuestionIndex:
    """Finds the benchmark items that conversations hold. Can be pickled: some 800 bytes an item.

    Words are runs of letters and digits, after NFKC and case folding: case, punctuation and white space do not count.
    In scripts that put no space between words, such as Chinese, what stands between two marks is one word: most items
    in them are too short to be looked for.

    Args:
        questions: The items; their order numbers them.

    Attributes:
        sha256: Hash of the items and of all that decides what is found, hex.
        num_too_short: Items of fewer than ``FEWEST_WORDS`` words, which are never found.

    Example:
        >>> index = QuestionIndex([Question("piqa", 7, "How do I open a jar? Turn the lid firmly to the left.")])
        >>> messages = (Message("user", "how do I open a JAR"), Message("assistant", "Turn the lid to the left."))
        >>> index.overlaps([Conversation(messages)])
        [(0, 0)]
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.sha256 = _identity(questions)
        words = hash_words([_fold(question.text) for question in questions])
        self._num_words = np.diff(words.starts)
        self.num_too_short = int(np.count_nonzero(self._num_words < FEWEST_WORDS))
        share = np.where(self._num_words < SHORT_BELOW, SHORT_SHARE, COVERED_SHARE)
        share[self._num_words < WHOLE_BELOW] = 1.0
        self._needed = np.ceil(self._num_words * share - 1e-9).astype(np.int32)
        self._starts = words.starts
        self._covers = _spread(hash_runs(words, COVER_WORDS), words)
        seeds, items = _rare(hash_runs(words, SEED_WORDS), self._num_words >= FEWEST_WORDS)
        self._seeds, first = np.unique(seeds, return_index=True)
        self._first = np.append(first, len(seeds)).astype(np.int32)
        self._items = items
        self._needed_hits = 1 + np.bincount(items, minlength=len(questions)) // SEEDS_PER_HIT

    def overlaps(self, conversations: Sequence[Conversation]) -> list[tuple[int, int]]:
        """Return (number of the conversation, number of the question) for every item that a conversation holds.

        All messages count, reasoning and system included, and an item may stand in several of them.
        """
        texts = [_fold(_text(conversation)) for conversation in conversations]
        found: list[tuple[int, int]] = []
        for chunk in in_chunks(texts):
            words = hash_words(texts[chunk])
            rows, items = self._candidates(hash_runs(words, SEED_WORDS))
            if len(rows):
                runs = hash_runs(words, COVER_WORDS)
                held = self._num_covered(runs, rows, items) >= self._needed[items]
                pairs = zip(rows[held].tolist(), items[held].tolist(), strict=True)
                found += [
                    (chunk.start + row, item) for row, item in pairs if self._stands_in_one_place(runs, row, item)
                ]
        return found

    def _candidates(self, runs: Hashes) -> tuple[np.ndarray, np.ndarray]:
        """Return texts and items worth comparing, in order: they share enough rare runs."""
        keys = _short(runs.values)
        seen = np.flatnonzero((self._seen[keys >> self._unseen_bits >> 3] >> (keys >> self._unseen_bits & 7)) & 1)
        seed = np.searchsorted(self._seeds, keys[seen])
        is_seed = self._seeds[np.minimum(seed, len(self._seeds) - 1)] == keys[seen] if len(self._seeds) else seed < 0
        seed, row = seed[is_seed], runs.text_of[seen[is_seed]]
        which, postings = _expand(self._first[seed], self._first[seed + 1])
        pairs, hits = np.unique(row[which] * len(self._needed) + self._items[postings], return_counts=True)
        rows, items = np.divmod(pairs, max(len(self._needed), 1))
        enough = hits >= self._needed_hits[items]
        return rows[enough], items[enough]

    def _num_covered(self, runs: Hashes, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return how many words of each item the text beside it covers."""
        texts = np.uint64(1) << np.uint64(32)
        held = np.sort(runs.text_of.astype(np.uint64) * texts + _short(runs.values))
        pair, places = _expand(self._starts[items], self._starts[items + 1])
        wanted = rows[pair].astype(np.uint64) * texts + self._covers[places]
        place = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
        is_held = (held[place] == wanted) & (self._covers[places] != 0)
        return np.bincount(pair[_covered(is_held)], minlength=len(items))

    def _stands_in_one_place(self, runs: Hashes, row: int, item: int) -> bool:
        """Say whether enough words of the item are covered within a few lines of the text."""
        keys = _short(runs.values[runs.starts[row] : runs.starts[row + 1]])
        covers = self._covers[self._starts[item] : self._starts[item + 1]]
        is_run = covers != 0
        places = np.flatnonzero(np.isin(keys, covers[is_run]))
        width = max(WITHIN_AT_LEAST, WITHIN * len(covers))
        if places[-1] - places[0] < width:
            return True
        ends = np.searchsorted(places, places + width)
        return any(
            np.count_nonzero(_covered(np.isin(covers, keys[places[first:end]]) & is_run)) >= self._needed[item]
            for first, end in enumerate(ends)
        )

    @cached_property
    def _unseen_bits(self) -> np.uint32:
        """Bits of a key that `_seen` does not look at."""
        return np.uint32(32 - min(max(10, (8 * len(self._seeds)).bit_length()), 32))

    @cached_property
    def _seen(self) -> np.ndarray:
        """One bit for each beginning of a key, set where a seed begins so: most runs of a text need no search."""
        beginnings = np.zeros(1 << (32 - int(self._unseen_bits)), dtype=bool)
        beginnings[self._seeds >> self._unseen_bits] = True
        return np.packbits(beginnings, bitorder="little")


def _covered(is_held: np.ndarray) -> np.ndarray:
    """Return which words are covered, of items one after the other; ``is_held`` says it of the runs they begin with."""
    covered = is_held.copy()
    for shift in range(1, COVER_WORDS):  # no run begins in the last words of an item, so that none reaches the next
        covered[shift:] |= is_held[:-shift]
    return covered


def _rare(runs: Hashes, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs that lead to an item, sorted, and the item of each.

    They are the runs that few items have; of an item without any, those that the fewest have.
    """
    pairs = np.sort((_short(runs.values).astype(np.uint64) << np.uint64(32)) | runs.text_of.astype(np.uint64))
    pairs = pairs[np.diff(pairs, prepend=pairs[:1] + np.uint64(1)) != 0]  # each once
    keys, items = (pairs >> np.uint64(32)).astype(np.uint32), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int32)
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    num_items = counts[which]
    rarest = np.full(len(wanted), np.iinfo(np.int64).max)
    np.minimum.at(rarest, items, num_items)
    kept = wanted[items] & (num_items <= np.maximum(rarest[items], COMMON_IN))
    return keys[kept], items[kept]


def _spread(runs: Hashes, words: Hashes) -> np.ndarray:
    """Return for each word the run that begins with it, uint32; 0 for the last words of a text, where none does."""
    spread = np.zeros(len(words.values), dtype=np.uint32)
    place_in_text = np.arange(len(runs.values)) - runs.starts[runs.text_of]
    spread[words.starts[runs.text_of] + place_in_text] = np.maximum(_short(runs.values), 1)
    return spread


def _expand(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all places of all ranges one after the other, and the number of the range that each belongs to."""
    counts = ends - begins
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) + np.repeat(begins - (np.cumsum(counts) - counts), counts)


def _short(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of hashes, which take half the memory; the few that collide only cost a comparison."""
    halves: np.ndarray = (values >> np.uint64(32)).astype(np.uint32)
    return halves


def _text(conversation: Conversation) -> str:
    return "\n".join(_parts(conversation))


def _parts(conversation: Conversation) -> Iterator[str]:
    for message in conversation.messages:
        if message.reasoning:
            yield message.reasoning
        yield message.content


def _fold(text: str) -> bytes:
    if not text.isascii():
        text = _OTHER_MARKS.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return text.encode().translate(_FOLDED)


def _identity(questions: Iterable[Question]) -> str:
    hashed = hashlib.sha256(json.dumps(_CONSTANTS).encode())
    for question in questions:
        hashed.update(json.dumps([question.task, question.doc_id, question.text]).encode() + b"\n")
    return hashed.hexdigest()
