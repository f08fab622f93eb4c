"""Rows of messages with role and content: SmolTalk, Tulu 3, OpenAI's chat format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.faults import missing_field, wrong_type
from genesis_sft.conversations.formats.turns import drop_empty_system, read_turn


def from_messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Read a row of ``messages``.

    One row of SmolTalk (texts shortened)::

        {"messages": [
            {"role": "system", "content": "You are an AI assistant..."},
            {"role": "user", "content": "What are the main differences between soy and oat milk?"},
            {"role": "assistant", "content": "Soy milk has more protein..."}],
         "source": "smol-magpie-ultra"}

    One row of Tulu 3::

        {"id": "oasst1_4", "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}],
         "source": "ai2-adapt-dev/oasst1_converted"}

    What else a turn may carry: `read_turn`. An empty system message is dropped. Tools have no turns here.

    Raises:
        BadRow: Something else than a list of role and content was found.
    """
    if "messages" not in row:
        raise missing_field("messages", row)
    turns = row["messages"]
    if not isinstance(turns, list):
        raise wrong_type("messages", "a list", turns)
    return drop_empty_system([_read(turn, number) for number, turn in enumerate(turns)])


def _read(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise wrong_type(f"message {number}", "an object with role and content", turn)
    try:
        role, content = turn["role"], turn["content"]
    except KeyError as error:
        raise missing_field(error.args[0], turn) from None
    return read_turn(role, content, turn, number)
