"""What one conversation is to be about: a cell of the taxonomy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """The plan of one conversation.

    Attributes:
        number: Place in the plan, from 0; decided, with the seed and the framework, by nothing else.
        area: Id of an area of ``principles.yaml``.
        principles: Ids of the principles that it is to show; the first is its main one. Two or three.
        topic: What it is about, in words; of the taxonomy, as are the following.
        persona: Who the user is.
        tone: How the user writes.
        difficulty: How hard it is to answer well.
        turns: Number of exchanges, from 1.
        system: The system prompt of the conversation, ``None`` for none.
        language: ISO 639-1 code, e.g. ``"de"``.
        reasoning: Whether answers are to have reasoning.
    """

    number: int
    area: str
    principles: tuple[str, ...]
    topic: str
    persona: str
    tone: str
    difficulty: str
    turns: int
    system: str | None
    language: str
    reasoning: bool

    @property
    def id(self) -> str:
        """Name of the conversation in files, e.g. ``"safety-00042"``."""
        return f"{self.area}-{self.number:05d}"
