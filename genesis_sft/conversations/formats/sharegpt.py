"""Rows of conversations with from and value: ShareGPT, OpenHermes 2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis_sft.conversations.conversation import Message, make_message
from genesis_sft.conversations.faults import missing_field, unknown_role, wrong_type
from genesis_sft.conversations.formats.turns import drop_empty_system, read_turn

_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


def from_sharegpt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Read a row of ``conversations``; upper and lower case of ``from`` are the same.

    One row of OpenHermes 2.5 (texts shortened)::

        {"conversations": [
            {"from": "human", "value": "Every day, a tree drops 7 leaves. How many would it drop in February?",
             "weight": null},
            {"from": "gpt", "value": "If the tree drops 7 leaves every day, then in a month of February..."}],
         "source": "airoboros2.2", "category": "general", "system_prompt": ""}

    ``system_prompt`` becomes the system message where the turns have none. What else a turn may carry: `read_turn`.

    Raises:
        BadRow: Something else than a list of from and value was found.
    """
    if "conversations" not in row:
        raise missing_field("conversations", row)
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise wrong_type("conversations", "a list", turns)
    messages = drop_empty_system([_read(turn, number) for number, turn in enumerate(turns)])
    prompt = row.get("system_prompt")
    if prompt and not any(message.role == "system" for message in messages):
        return drop_empty_system([make_message("system", prompt, turn=0), *messages])
    return messages


def _read(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise wrong_type(f"message {number}", "an object with from and value", turn)
    try:
        speaker, value = turn["from"], turn["value"]
    except KeyError as error:
        raise missing_field(error.args[0], turn) from None
    role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise unknown_role(speaker, tuple(_SPEAKERS), number)
    return read_turn(role, value, turn, number)
