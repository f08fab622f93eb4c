"""Screen: words in a row that stand in the constitution or the prompts, too many to be chance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.word_hashes import hash_runs, hash_words, in_chunks
from genesis_sft.synthesis.screening.candidate import Verdict, place
from genesis_sft.synthesis.screening.prose import word_list

LEAKED = "leaked instructions"
_VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})")  # of string.Template: what stands in its place belongs to the scenario


class QuoteIndex:
    """Finds runs of words that texts share with the constitution and the prompts.

    Words are runs of letters and digits; case and punctuation do not count.

    Args:
        texts: Of the constitution and the prompts, variables included.
        length: Words of a run.

    Example:
        >>> index = QuoteIndex(["Keep people from harm, and say $name why."], 4)
        >>> index.find([(Message("user", "Hi."), Message("assistant", "I keep people from HARM!"))])
        [Verdict(reason='leaked instructions', detail="message 1 (assistant) quotes 'keep people from harm'")]
    """

    def __init__(self, texts: Iterable[str], length: int) -> None:
        self._length = length
        parts = [_fold(part) for text in texts for part in _VARIABLE.split(text)]
        self._runs = np.unique(hash_runs(hash_words(parts), length).values)

    def find(self, conversations: Sequence[tuple[Message, ...]]) -> list[Verdict | None]:
        """Return for each conversation the first quotation of its user or assistant, reasoning included."""
        found: list[Verdict | None] = [None] * len(conversations)
        texts = [
            (number, turn, text)
            for number, messages in enumerate(conversations)
            for turn, message in enumerate(messages)
            if message.role != "system"
            for text in filter(None, (message.reasoning, message.content))
        ]
        folded = [_fold(text) for _, _, text in texts]
        for chunk in in_chunks(folded):
            runs = hash_runs(hash_words(folded[chunk]), self._length)
            hits = np.flatnonzero(self._holds(runs.values))
            held, first = np.unique(runs.text_of[hits], return_index=True)
            for text, run in zip(held.tolist(), hits[first].tolist(), strict=True):
                number, turn, _ = texts[chunk.start + text]
                if found[number] is None:
                    start = run - runs.starts[text]
                    words = folded[chunk.start + text].decode().split()[start : start + self._length]
                    where = place(turn, conversations[number][turn])
                    found[number] = Verdict(LEAKED, f"{where} quotes {' '.join(words)!r}")
        return found

    def _holds(self, runs: np.ndarray) -> np.ndarray:
        if not len(self._runs):
            return np.zeros(len(runs), dtype=bool)
        places = np.minimum(np.searchsorted(self._runs, runs), len(self._runs) - 1)
        held: np.ndarray = self._runs[places] == runs
        return held


def _fold(text: str) -> bytes:
    return " ".join(word_list(text)).encode(errors="replace")
