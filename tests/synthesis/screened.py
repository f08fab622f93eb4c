"""A small framework and small conversations for the tests of what becomes of written ones."""

from __future__ import annotations

from pathlib import Path

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.planning.framework import load_framework
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.screening.candidate import Candidate

FRAMEWORK = load_framework(Path(__file__).resolve().parents[2] / "constitution")


def talk(*contents: str) -> tuple[Message, ...]:
    """Return user and assistant in turn."""
    return tuple(Message("assistant" if turn % 2 else "user", content) for turn, content in enumerate(contents))


def candidate(number: int, messages: tuple[Message, ...], language: str = "en", area: str = "area") -> Candidate:
    """Return a written conversation."""
    principles = tuple(principle.id for principle in FRAMEWORK.principles[:2])
    scenario = Scenario(
        number=number, area=area, principles=principles, topic="bread", persona="a baker", tone="plain",
        difficulty="easy", turns=1, system=None, language=language, reasoning=False,
    )  # fmt: skip
    return Candidate(scenario, messages)
