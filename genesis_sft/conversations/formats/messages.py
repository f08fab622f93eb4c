"""Rows of messages with role and content: SmolTalk, Tulu 3, OpenAI's chat format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis_sft.conversations.conversation import Message, make_message
from genesis_sft.conversations.faults import missing_field, wrong_type


def from_messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Read a row of ``messages``.

    One row of SmolTalk (texts shortened)::

        {"messages": [
            {"role": "system", "content": "You are an AI assistant..."},
            {"role": "user", "content": "What are the main differences between soy and oat milk?"},
            {"role": "assistant", "content": "Soy milk has more protein..."}],
         "source": "smol-magpie-ultra"}

    Assistant messages may carry ``reasoning`` or ``reasoning_content``. An empty system message is dropped.

    Raises:
        BadRow: Something else than a list of role and content was found.
    """
    if "messages" not in row:
        raise missing_field("messages", row)
    turns = row["messages"]
    if not isinstance(turns, list):
        raise wrong_type("messages", "a list", turns)
    messages = [_read_turn(turn, number) for number, turn in enumerate(turns)]
    return drop_empty_system(messages)


def drop_empty_system(messages: list[Message]) -> tuple[Message, ...]:
    """Return the messages without a first system message that says nothing."""
    says_nothing = bool(messages) and messages[0].role == "system" and not messages[0].content.strip()
    return tuple(messages[1:] if says_nothing else messages)


def _read_turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise wrong_type(f"message {number}", "an object with role and content", turn)
    for field in ("role", "content"):
        if field not in turn:
            raise missing_field(field, turn)
    reasoning = turn.get("reasoning") or turn.get("reasoning_content")
    return make_message(turn["role"], turn["content"], reasoning, turn=number)
