"""Words of many texts as 64-bit hashes, all at once: a search over millions of words must not build a string for each.

The hash of a word is a polynomial of its bytes modulo 2**64; one pass of sums over the joined texts gives that of every
word as a difference of two sums (Karp and Rabin 1987, IBM J. Res. Dev. 31:249). It is the same in every process, on
every machine.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK_BYTES = 1 << 16
"""Text that is worked on at once: its sums take eight times as much, and stay in the processor's cache."""

_SPACE = 0x20
_BASE = 0x9E3779B97F4A7C15  # odd, so that it can be divided by modulo 2**64
_PER_WORD = np.uint64(0xD1342543DE82EF95)
_PER_BYTE = np.uint64(0xAF251AF3B0F025B5)


@dataclass(frozen=True)
class Hashes:
    """Hashes of the words, or runs of words, of n texts.

    Attributes:
        values: uint64 (number of words of all texts,), in order.
        starts: int64 (n + 1,); those of text i are ``values[starts[i]:starts[i + 1]]``.
    """

    values: np.ndarray
    starts: np.ndarray

    @property
    def text_of(self) -> np.ndarray:
        """Text of each value, int64."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def in_chunks(texts: Sequence[bytes]) -> Iterator[slice]:
    """Yield which texts to work on together: about ``CHUNK_BYTES`` each, never less than one text."""
    first = num_bytes = 0
    for number, text in enumerate(texts):
        if num_bytes and num_bytes + len(text) > CHUNK_BYTES:
            yield slice(first, number)
            first, num_bytes = number, 0
        num_bytes += len(text) + 1
    if first < len(texts):
        yield slice(first, len(texts))


def hash_words(texts: Sequence[bytes]) -> Hashes:
    """Return a hash for every word: every run of bytes that are no spaces (0x20).

    Example:
        >>> hashes = hash_words([b"the ferry  the", b"", b"ferry"])
        >>> hashes.starts.tolist()
        [0, 3, 3, 4]
        >>> [bool(hashes.values[0] == value) for value in hashes.values]
        [True, False, True, False]
    """
    joined = b" ".join([*texts, b""])  # every text ends with a space
    begins, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.uint64)]
    first = 0
    while first < len(joined):
        end = joined.rfind(b" ", first, first + CHUNK_BYTES) + 1 or joined.index(b" ", first) + 1
        begins_here, values_here = _hash_piece(joined[first:end])
        begins.append(begins_here + first)
        values.append(values_here)
        first = end
    text_begins = np.cumsum([0, *(len(text) + 1 for text in texts)])
    return Hashes(np.concatenate(values), np.searchsorted(np.concatenate(begins), text_begins))


def _hash_piece(piece: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return where the words of a text that ends with a space begin, and their hashes."""
    letters = np.frombuffer(b" " + piece, dtype=np.uint8)  # (B,)
    in_word = letters != _SPACE
    edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1
    begins, ends = edges[::2], edges[1::2]
    powers, inverses = _powers(1 << (len(letters) - 1).bit_length())
    sums = np.zeros(len(letters) + 1, dtype=np.uint64)
    np.cumsum(letters * powers[: len(letters)], out=sums[1:])
    # the length is counted too: bytes of value 0 at the end of a word add nothing to its sum
    values = (sums[ends] - sums[begins]) * inverses[begins] + (ends - begins).astype(np.uint64) * _PER_BYTE
    return begins - 1, _mix(values)


def hash_runs(words: Hashes, length: int) -> Hashes:
    """Return a hash for every run of ``length`` words within a text; a text of fewer words has none."""
    num_runs = max(len(words.values) - length + 1, 0)
    values = np.zeros(num_runs, dtype=np.uint64)
    for offset in range(length):
        values = values * _PER_WORD + words.values[offset : offset + num_runs]
    counts = np.diff(words.starts)
    ends = np.repeat(words.starts[1:], counts)[:num_runs]
    kept = np.maximum(counts - length + 1, 0)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(kept)])
    return Hashes(_mix(values[ends - np.arange(num_runs) >= length]), starts)


def _mix(values: np.ndarray) -> np.ndarray:
    """Return values whose bits all depend on all bits (Stafford's variant 13, the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


@functools.lru_cache(maxsize=2)
def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of the base from 0 on, and of its inverse."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        factors = np.full(length, base, dtype=np.uint64)
        factors[0] = 1
        both.append(np.multiply.accumulate(factors))
    return both[0], both[1]
