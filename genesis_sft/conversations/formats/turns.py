"""What one turn may carry besides its role and text, in the formats that have turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis_sft.conversations.conversation import Message, make_message
from genesis_sft.conversations.faults import BadRow, wrong_type

_REASONING = ("reasoning", "reasoning_content", "thinking")


def read_turn(role: Any, content: Any, turn: Mapping[str, Any], number: int) -> Message:
    """Build the message of a turn, with its reasoning and whether it is trained on.

    Reasoning stands in ``reasoning``, ``reasoning_content`` or ``thinking``: the first of them that holds text. Whether
    to train on the turn is said by ``train`` or ``training`` (true, false) or OpenAI's ``weight`` (1, 0); ``null`` is
    the same as absent:

        >>> read_turn("assistant", "4", {"reasoning": "2+2", "weight": 0}, number=1)
        Message(role='assistant', content='4', reasoning='2+2', train=False)

    Raises:
        BadRow: A field is of the wrong type, or two fields contradict each other.
    """
    if len(turn) == 2:  # role and text, as most turns are
        return make_message(role, content, turn=number)
    reasoning = next((turn[field] for field in _REASONING if turn.get(field) not in (None, "")), None)
    return make_message(role, content, reasoning, _read_train(turn, number), turn=number)


def drop_empty_system(messages: list[Message]) -> tuple[Message, ...]:
    """Return the messages without a first system message that says nothing."""
    says_nothing = bool(messages) and messages[0].role == "system" and not messages[0].content.strip()
    return tuple(messages[1:] if says_nothing else messages)


def _read_train(turn: Mapping[str, Any], number: int) -> bool | None:
    said: dict[str, bool] = {}
    for field in ("train", "training"):
        value = turn.get(field)
        if value is not None:
            if not isinstance(value, bool):
                raise wrong_type(f"{field} of message {number}", "true or false", value)
            said[field] = value
    weight = turn.get("weight")
    if weight is not None:
        if isinstance(weight, bool) or weight not in (0, 1):
            raise wrong_type(f"weight of message {number}", "0 or 1", weight)
        said["weight"] = bool(weight)
    if len(set(said.values())) > 1:
        raise BadRow("contradicting fields", f"expected {' and '.join(said)} of message {number} to say the same")
    return next(iter(said.values()), None)
