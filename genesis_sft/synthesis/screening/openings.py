"""How conversations begin: which openings are too common, and how concentrated they are."""

from __future__ import annotations

from collections import Counter

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.screening.candidate import Verdict
from genesis_sft.synthesis.screening.prose import word_list

OPENING_WORDS = 4
"""Words of an opening."""

ALWAYS_ALLOWED = 5
"""So many conversations may begin alike in any case: a share of a small set would allow none."""

Openings = tuple[str, str]
"""Those of the first question and of the first answer."""


def openings(messages: tuple[Message, ...]) -> Openings:
    """Return the first four words of the first question and of the first answer, in lower case; fewer if it is shorter.

    Example:
        >>> openings((Message("user", "So, what IS a tide?"), Message("assistant", "The sea, rising.")))
        ('so what is a', 'the sea rising')
    """
    firsts = {message.role: message.content for message in reversed(messages)}
    question, answer = (" ".join(word_list(firsts[role][:400])[:OPENING_WORDS]) for role in ("user", "assistant"))
    return question, answer


class OpeningScreen:
    """Lets so many conversations begin alike, by order in the plan.

    Args:
        share: Largest share of all candidates with the same opening.
        num_candidates: How many there are.
    """

    def __init__(self, share: float, num_candidates: int) -> None:
        self._most = max(ALWAYS_ALLOWED, int(share * num_candidates + 1e-9))
        self._kept: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def check(self, found: Openings) -> Verdict | None:
        """Reject a conversation whose question or answer begins as enough kept ones do; else count it as kept."""
        for what, opening, kept in zip(("question", "answer"), found, self._kept, strict=True):
            if kept[opening] >= self._most:
                return Verdict(
                    "repeated opening", f"{self._most} earlier ones have a first {what} {opening + ' ...'!r}"
                )
        for opening, kept in zip(found, self._kept, strict=True):
            kept[opening] += 1
        return None
