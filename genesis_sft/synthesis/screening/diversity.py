"""How varied a set of conversations is, in numbers that need no embeddings.

- **distinct-n**: number of different runs of n words over the number of words (Li et al. 2016, *A Diversity-Promoting
  Objective Function for Neural Conversation Models*, arXiv:1510.03055). It falls with the size of a set; so that sets
  of different sizes compare, it is also given on ``SAMPLE_WORDS`` words of conversations drawn at random.
- **near duplicates**: share of the conversations that resemble an earlier one, by MinHash (`near_duplicates`).
- **openings**: share of the ten commonest first four words, and the effective number of openings, exp(H) with the
  entropy H in nats of their distribution (Hill 1973, *Ecology* 54:427, order 1): 50 equally common ones count 50.
- **lengths**: median, 5th and 95th percentile of words.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.near_duplicates import NUM_PERMUTATIONS, near_duplicates, signatures
from genesis_sft.conversations.word_hashes import Hashes, hash_runs, hash_words, in_chunks
from genesis_sft.synthesis.screening.candidate import Candidate
from genesis_sft.synthesis.screening.openings import openings
from genesis_sft.synthesis.screening.prose import num_words, word_list

SAMPLE_WORDS = 20_000
"""Words on which sets of any size are compared; a smaller set has no such numbers."""

THRESHOLDS = (0.3, 0.5, 0.7)
"""Similarities at which near duplicates are counted."""

_LONGEST_RUN = 3
_NUM_COMMONEST = 10
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words of a message: 5th, 50th and 95th percentile."""

    p5: float
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class SideDiversity:
    """What one side says.

    Attributes:
        messages, words: How many.
        distinct: distinct-1, -2 and -3 of all words.
        distinct_of_sample: The same of ``SAMPLE_WORDS`` words; ``None`` where there are fewer.
        openings: The commonest ones of the first message, with how many conversations have each.
        openings_share: Share of the conversations that have one of these.
        effective_openings: Effective number of openings.
        lengths: Words of a message, reasoning left out; ``None`` where there is no message.
    """

    messages: int
    words: int
    distinct: tuple[float, ...]
    distinct_of_sample: tuple[float, ...] | None
    openings: tuple[tuple[str, int], ...]
    openings_share: float
    effective_openings: float
    lengths: Lengths | None


@dataclass(frozen=True, slots=True)
class AreaLengths:
    """The conversations of one area."""

    conversations: int
    questions: Lengths | None
    answers: Lengths | None


@dataclass(frozen=True, slots=True)
class Diversity:
    """How varied a set of conversations is.

    Attributes:
        conversations: How many.
        questions: What users say.
        answers: What assistants say, reasoning left out.
        near_duplicates: Similarity to share of the conversations that resemble an earlier one as much.
        areas: By area, in alphabetical order.
    """

    conversations: int
    questions: SideDiversity
    answers: SideDiversity
    near_duplicates: Mapping[float, float]
    areas: Mapping[str, AreaLengths]
    sample_words: int = SAMPLE_WORDS

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON."""
        shares = {f"{threshold:g}": share for threshold, share in self.near_duplicates.items()}
        areas = {name: asdict(area) for name, area in self.areas.items()}
        return asdict(self) | {"near_duplicates": shares, "areas": areas}


def diversity(kept: Iterable[Candidate]) -> Diversity:
    """Measure conversations; read once, of each some eight bytes a word and 512 more are held."""
    sides = {"user": _Side(), "assistant": _Side()}
    areas: dict[str, _Area] = {}
    found = [np.zeros((0, NUM_PERMUTATIONS), dtype=np.uint32)]
    conversations = 0
    for batch in _batches(kept):
        conversations += len(batch)
        found.append(signatures([Conversation(candidate.messages) for candidate in batch]))
        first = [openings(candidate.messages) for candidate in batch]
        for number, (role, side) in enumerate(sides.items()):
            side.add([_texts(candidate, role) for candidate in batch], [both[number] for both in first])
        for candidate in batch:
            areas.setdefault(candidate.scenario.area, _Area()).add(candidate)
    all_signatures = np.concatenate(found)
    return Diversity(
        conversations=conversations,
        questions=sides["user"].measure(),
        answers=sides["assistant"].measure(),
        near_duplicates={
            threshold: float(np.mean(near_duplicates(all_signatures, threshold) >= 0)) if conversations else 0.0
            for threshold in THRESHOLDS
        },
        areas={name: area.measure() for name, area in sorted(areas.items())},
    )


class _Area:
    """The lengths of an area's messages."""

    def __init__(self) -> None:
        self._conversations = 0
        self._questions, self._answers = array("l"), array("l")

    def add(self, candidate: Candidate) -> None:
        """Count a conversation."""
        self._conversations += 1
        self._questions.extend(num_words(text) for text in _texts(candidate, "user"))
        self._answers.extend(num_words(text) for text in _texts(candidate, "assistant"))

    def measure(self) -> AreaLengths:
        """Return the numbers."""
        return AreaLengths(self._conversations, _lengths(self._questions), _lengths(self._answers))


def _texts(candidate: Candidate, role: str) -> list[str]:
    return [message.content for message in candidate.messages if message.role == role]


class _Side:
    """What one side says: its words as hashes, message after message."""

    def __init__(self) -> None:
        self._words: list[np.ndarray] = [np.zeros(0, dtype=np.uint64)]
        self._ends = [0]  # of the messages, in words
        self._first_messages: list[int] = []  # of the conversations
        self._lengths = array("l")
        self._openings: Counter[str] = Counter()

    def add(self, batch: Sequence[Sequence[str]], openings: Sequence[str]) -> None:
        """Take the messages of some conversations, and the opening of each conversation."""
        folded: list[bytes] = []
        for texts in batch:
            self._first_messages.append(len(self._ends) - 1 + len(folded))
            folded += [" ".join(word_list(text)).encode(errors="replace") for text in texts]
            self._lengths.extend(num_words(text) for text in texts)
        for chunk in in_chunks(folded):
            hashes = hash_words(folded[chunk])
            self._words.append(hashes.values)
            self._ends += (hashes.starts[1:] + self._ends[-1]).tolist()
        self._openings.update(openings)

    def measure(self) -> SideDiversity:
        """Return the numbers."""
        words = Hashes(np.concatenate(self._words), np.array(self._ends))
        commonest = sorted(self._openings.items(), key=lambda item: (-item[1], item[0]))[:_NUM_COMMONEST]
        num_openings = self._openings.total()
        shares = [count / num_openings for _, count in sorted(self._openings.items())]
        return SideDiversity(
            messages=len(self._lengths),
            words=len(words.values),
            distinct=_distinct(words),
            distinct_of_sample=_distinct(self._sample(words)) if len(words.values) >= SAMPLE_WORDS else None,
            openings=tuple(commonest),
            openings_share=sum(count for _, count in commonest) / num_openings if num_openings else 0.0,
            effective_openings=math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0,
            lengths=_lengths(self._lengths),
        )

    def _sample(self, words: Hashes) -> Hashes:
        """Return the first ``SAMPLE_WORDS`` words of the conversations in a shuffled order, the same every time."""
        # a stream that numpy keeps the same in all versions, see near_duplicates
        order = np.argsort(np.random.PCG64(len(self._first_messages)).random_raw(len(self._first_messages)))
        ends = [*self._first_messages[1:], len(words.starts) - 1]
        taken, starts = [], [0]
        for message in itertools.chain.from_iterable(range(self._first_messages[one], ends[one]) for one in order):
            part = words.values[words.starts[message] : words.starts[message + 1]][: SAMPLE_WORDS - starts[-1]]
            taken.append(part)
            starts.append(starts[-1] + len(part))
            if starts[-1] == SAMPLE_WORDS:
                break
        return Hashes(np.concatenate(taken), np.array(starts))


def _distinct(words: Hashes) -> tuple[float, ...]:
    """Return distinct-1 to -3: runs do not reach from one message into the next."""
    num_words = len(words.values)
    if not num_words:
        return (0.0,) * _LONGEST_RUN
    return tuple(
        len(np.unique(words.values if length == 1 else hash_runs(words, length).values)) / num_words
        for length in range(1, _LONGEST_RUN + 1)
    )


def _lengths(counts: array[int]) -> Lengths | None:
    return Lengths(*np.percentile(np.array(counts), (5, 50, 95)).tolist()) if counts else None


def _batches(kept: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    left = iter(kept)
    while batch := list(itertools.islice(left, _AT_ONCE)):
        yield batch
