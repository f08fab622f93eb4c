"""A conversation before and after it was screened."""

from __future__ import annotations

from dataclasses import dataclass

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.planning.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Candidate:
    """A conversation that was written to its end.

    Attributes:
        scenario: What it was to be about.
        messages: What was written; not checked yet.
    """

    scenario: Scenario
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate stays.

    Attributes:
        reason: Name of the screen that it failed first, e.g. ``"language"``; ``None`` where it stays.
        detail: Where and what, for people, e.g. ``"message 1 (assistant): expected de, found en"``.
    """

    reason: str | None = None
    detail: str | None = None

    @property
    def kept(self) -> bool:
        """Whether it stays."""
        return self.reason is None


KEPT = Verdict()


def place(number: int, message: Message) -> str:
    """Return how a message is named in details, e.g. ``"message 1 (assistant)"``."""
    return f"message {number} ({message.role})"
