"""Conversations that resemble an earlier one: MinHash signatures, compared only where a band of them is the same.

::

    text ──> runs of 5 words ──> signature of 128 numbers ──> bands ──> pairs to compare ──> kept, or resembles which

Formulas after Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets* (3rd ed. 2020), chapter 3. Two signatures
agree in a share of their numbers that estimates the Jaccard similarity J of the two sets of runs, with a standard error
of sqrt(J (1 - J) / 128), at most 0.044.

No library: signatures are kept with the tokens of their source and searched over all sources of a mixture later, and
the indexes of datasketch and rensa take objects held in memory, not signatures on disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.word_hashes import hash_runs, hash_words, in_chunks

NUM_PERMUTATIONS = 128
"""Numbers of a signature."""

SHINGLE_WORDS = 5
"""Words of a run."""

ALGORITHM = "minhash-128-of-5-words-v2"
"""Changes whenever the same conversation would get another signature; belongs into the key of what is cached."""

MOST_MISSED = 0.005
"""Pairs of exactly the threshold's similarity that share no band, and are not compared, at most."""

_ROWS_AT_ONCE = 2048  # 1 MB of signatures
_END = b" \x03"

# lower case of ASCII letters, a space for ASCII white space (str.isspace); other bytes stay
_FOLDED = bytes(0x20 if chr(b).isspace() and b < 128 else ord(chr(b).lower()) if b < 128 else b for b in range(256))
_OTHER_WHITE_SPACE = re.compile(r"[^\S\x00-\x7f]")
# Thai to Tibetan, Burmese, Khmer; Chinese characters and their radicals, kana, bopomofo, half-width kana
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3041-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]+"
)


def signatures(conversations: Sequence[Conversation]) -> np.ndarray:
    """Return the MinHash signature of each conversation: uint32 (n, ``NUM_PERMUTATIONS``).

    Of a conversation count the user's and the assistant's words, reasoning included, in lower case and with the speaker
    in front of each message. White space between words does not count, punctuation does. System messages are left out:
    where a source has one long system message, all its rows would resemble each other.

    Words end at white space. In scripts that put none between words (Chinese, Japanese, Thai, Lao, Tibetan, Burmese,
    Khmer) every character counts as a word, so that one run is five characters; Korean has spaces. Other long strings,
    such as an address or a line of base64, are one word each, the same or not.

    Number k of a signature is the least value of ``(a_k * h + b_k) mod 2**32`` over the hashes h of all runs of five
    words (of fewer words, however long, there is one run, of all); the constants are fixed, so that signatures agree
    everywhere.
    """
    texts = [_text(conversation) for conversation in conversations]
    found = np.empty((len(texts), NUM_PERMUTATIONS), dtype=np.uint32)
    for chunk in in_chunks(texts):
        runs = hash_runs(hash_words(texts[chunk]), SHINGLE_WORDS)
        hashes = (runs.values >> np.uint64(32)).astype(np.uint32)
        permuted, starts = np.empty_like(hashes), runs.starts[:-1]
        assert (np.diff(runs.starts) > 0).all()  # where one had no run, it would be given one of the next
        for number, (factor, offset) in enumerate(zip(_FACTORS, _OFFSETS, strict=True)):
            np.multiply(hashes, factor, out=permuted)
            np.add(permuted, offset, out=permuted)
            found[chunk, number] = np.minimum.reduceat(permuted, starts)
    return found


def near_duplicates(signatures: np.ndarray, threshold: float) -> np.ndarray:
    """Return for each row the earlier kept row that it resembles, -1 where it is kept itself: int64 (n,).

    Rows are taken in order, and a row is left out when its signature agrees in a share of at least ``threshold`` with
    that of a row that was kept; the first such row is named. Rows that follow are compared with kept rows only, so
    that of a chain, where each resembles the next, not all but the first are lost.

    Only rows that share a band are compared, see `band_rows`. Signatures may be memory-mapped; beside them some 400
    bytes a row are needed. Time grows with the rows, and with kept rows times those that share a band with them.

    Args:
        signatures: uint32 (n, ``NUM_PERMUTATIONS``), as `signatures` gives them.
        threshold: Share of equal numbers from 0 to 1.

    Example:
        >>> near_duplicates(np.repeat(np.array([[1], [2], [1]], dtype=np.uint32), 128, axis=1), 0.8).tolist()
        [-1, -1, 0]
    """
    first_alike = _first_alike(signatures)
    distinct = np.flatnonzero(first_alike == np.arange(len(signatures)))
    bands = _Bands(signatures, distinct, band_rows(threshold))
    comparison = _Comparison(signatures, distinct, math.ceil(threshold * NUM_PERMUTATIONS - 1e-9))
    resembles = np.full(len(distinct), -1, dtype=np.int64)  # positions in distinct
    for row in bands.rows:
        if resembles[row] == -1:
            resembles[comparison.alike(row, bands.later(row, resembles))] = row
    of_distinct = np.where(resembles == -1, -1, distinct[resembles])
    found = of_distinct[np.searchsorted(distinct, first_alike)]
    # the same signature again resembles the first that has it, or what that one resembles
    return np.where((found == -1) & (first_alike != np.arange(len(found))), first_alike, found)


def band_rows(threshold: float) -> int:
    """Return how many numbers make a band: r, of which there are b = 128 // r.

    A pair of similarity s shares a band with probability ``1 - (1 - s**r)**b`` (section 3.4.2); r is the largest that
    leaves no more than ``MOST_MISSED`` of the pairs at the threshold uncompared:

        >>> band_rows(0.8), band_rows(0.5)
        (6, 3)
    """
    fitting = (
        rows
        for rows in range(NUM_PERMUTATIONS, 1, -1)
        if (1 - threshold**rows) ** (NUM_PERMUTATIONS // rows) <= MOST_MISSED
    )
    return next(fitting, 1)


class _Bands:
    """Which rows share a band, for rows that share any.

    Args:
        signatures: Of all rows.
        distinct: Rows to look at, ascending; below, a row is a position in this list.
        width: Numbers of a band.

    Attributes:
        rows: Rows that share a band with another, ascending.
    """

    def __init__(self, signatures: np.ndarray, distinct: np.ndarray, width: int) -> None:
        members, sizes = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
        for first in range(0, NUM_PERMUTATIONS - width + 1, width):
            shared, counts = _shared(_hash_rows(signatures, distinct, slice(first, first + width)))
            members.append(shared)
            sizes.append(counts)
        counts = np.concatenate(sizes)
        self._members = np.concatenate(members)  # ascending within a group
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts
        order = np.argsort(self._members, kind="stable")
        self._groups = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]
        self.rows, self._first_group = np.unique(self._members[order], return_index=True)
        self._last_group = np.append(self._first_group[1:], len(order))

    def later(self, row: int, resembles: np.ndarray) -> np.ndarray:
        """Return the rows after ``row`` that share a band with it and are not left out; the others are forgotten."""
        position = np.searchsorted(self.rows, row)
        found = []
        for group in self._groups[self._first_group[position] : self._last_group[position]]:
            begin = self._begins[group]
            group_members = self._members[begin : self._ends[group]]
            alive = group_members[(group_members > row) & (resembles[group_members] == -1)]
            # so that a large group gets smaller each time it is read
            self._members[begin : begin + len(alive)] = alive
            self._ends[group] = begin + len(alive)
            found.append(alive)
        if 16 * sum(map(len, found)) < len(resembles):
            return np.unique(np.concatenate(found))
        is_later = np.zeros(len(resembles), dtype=bool)  # many: marking is faster than sorting
        for alive in found:
            is_later[alive] = True
        return np.flatnonzero(is_later)


class _Comparison:
    """Says which signatures agree in enough numbers; compares two bits of each number first, where most differ already.

    Args:
        signatures: Of all rows.
        distinct: Rows to look at; below, a row is a position in this list.
        fewest_equal: Numbers that have to be equal.
    """

    def __init__(self, signatures: np.ndarray, distinct: np.ndarray, fewest_equal: int) -> None:
        self._signatures, self._distinct, self._fewest_equal = signatures, distinct, fewest_equal
        self._bits = np.empty((NUM_PERMUTATIONS // 32, len(distinct)), dtype=np.uint64)  # of 32 numbers each
        for block in _blocks(len(distinct)):
            fours = (signatures[distinct[block]] & np.uint32(3)).astype(np.uint8).reshape(-1, NUM_PERMUTATIONS // 4, 4)
            packed = fours[:, :, 0] | fours[:, :, 1] << 2 | fours[:, :, 2] << 4 | fours[:, :, 3] << 6
            self._bits[:, block] = packed.view(np.uint64).T

    def alike(self, row: int, others: np.ndarray) -> np.ndarray:
        """Return those of the other rows that do, with this row."""
        found = [np.zeros(0, dtype=np.int64)]
        for block in _blocks(len(others)):
            num_differing = np.zeros(len(others[block]), dtype=np.uint8)
            for bits in self._bits:
                differing = bits[others[block]] ^ bits[row]
                num_differing += np.bitwise_count((differing | differing >> np.uint64(1)) & _ONE_OF_TWO)
            likely = others[block][num_differing <= NUM_PERMUTATIONS - self._fewest_equal]
            equal = self._signatures[self._distinct[likely]] == self._signatures[self._distinct[row]]
            found.append(likely[np.count_nonzero(equal, axis=1) >= self._fewest_equal])
        return np.concatenate(found)


def _shared(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose key another row has too, group after group, and the sizes of the groups."""
    order = np.argsort(keys, kind="stable").astype(np.int32)
    begins = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]])[: len(keys)])
    sizes = np.diff(np.append(begins, len(keys)))
    return order[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]


def _first_alike(signatures: np.ndarray) -> np.ndarray:
    """Return the first row with the same signature for each row: int64 (n,)."""
    keys = _hash_rows(signatures, np.arange(len(signatures)), slice(None))
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return first[which].astype(np.int64)


def _hash_rows(signatures: np.ndarray, rows: np.ndarray, columns: slice) -> np.ndarray:
    """Return a 64-bit hash of some columns of each row."""
    keys = np.zeros(len(rows), dtype=np.uint64)
    for block in _blocks(len(rows)):
        key = keys[block]
        for column in signatures[rows[block], columns].T.astype(np.uint64):
            key *= _KEY_FACTOR
            key += column
            key ^= key >> np.uint64(29)
    return keys


def _blocks(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, num_rows, _ROWS_AT_ONCE))


def _text(conversation: Conversation) -> bytes:
    parts = []
    for message in conversation.messages:
        if message.role != "system":
            parts += [f"{message.role}:", message.reasoning or "", message.content]
    text = " ".join(parts)
    if not text.isascii():
        text = _OTHER_WHITE_SPACE.sub(" ", text.lower())
        text = _WITHOUT_SPACES.sub(lambda run: f" {' '.join(run[0])} ", text)
    words = text.encode().translate(_FOLDED)
    first_words = words.split(None, SHINGLE_WORDS - 1)  # no more pieces than make a run
    return words + _END * (SHINGLE_WORDS - len(first_words))  # so that a conversation always has one


_ONE_OF_TWO = np.uint64(0x5555555555555555)
_KEY_FACTOR = np.uint64(0x9FB21C651E98DF25)
# a seeded stream that numpy keeps the same in all versions (NEP 19: bit generators, unlike distributions)
_DRAWN = np.random.PCG64(20_240_128).random_raw(2 * NUM_PERMUTATIONS) >> np.uint64(32)
_FACTORS = _DRAWN[:NUM_PERMUTATIONS].astype(np.uint32) | np.uint32(1)
_OFFSETS = _DRAWN[NUM_PERMUTATIONS:].astype(np.uint32)
