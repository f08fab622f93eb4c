"""A conversation: who said what, checked once, when it is built.

Everything after this stage relies on what is checked here: an optional system message, then user and assistant in turn,
the last word the assistant's, no empty text, nothing that UTF-8 cannot hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from genesis_sft.conversations.faults import BadRow, show_value, unknown_role, wrong_type

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)

_LITERAL_REASONING = re.compile(r"<think>(.*?)</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says in one turn.

    Attributes:
        role: Who speaks.
        content: The text, never empty.
        reasoning: What an assistant thought before it answered; ``None`` when nothing was written down.
        train: Whether the turn is trained on, where the row says so; ``None`` goes by the recipe's rule.
    """

    role: Role
    content: str
    reasoning: str | None = None
    train: bool | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation that a model can be trained on; see `check_messages` for what holds of it.

    Attributes:
        messages: The turns.
        source: Name of the source in the recipe.
        row: Row in the source, counted from 0 through all its files.

    Raises:
        BadRow: The messages are no conversation.
    """

    messages: tuple[Message, ...]
    source: str = ""
    row: int = 0

    def __post_init__(self) -> None:
        check_messages(self.messages)

    @property
    def first_user_text(self) -> str:
        """The text of the first user turn."""
        return next(message.content for message in self.messages if message.role == "user")

    def to_json(self) -> str:
        """Return the conversation as one line of JSON; `from_json` gives back an equal conversation."""
        row = {"source": self.source, "row": self.row, "messages": [as_dict(message) for message in self.messages]}
        return json.dumps(row, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Conversation:
        """Read a line that `to_json` wrote."""
        row = json.loads(line)
        messages = tuple(Message(**fields) for fields in row["messages"])
        return cls(messages, source=row["source"], row=row["row"])


def make_message(role: Any, content: Any, reasoning: Any = None, train: bool | None = None, *, turn: int) -> Message:
    """Build a message from a data set's fields; what is no message is refused.

    ``<think>…</think>`` at the very start of an assistant's content becomes its reasoning, unless reasoning has a field
    of its own; anywhere else these strings stay text:

        >>> make_message("assistant", "<think>2+2</think>4", turn=1)
        Message(role='assistant', content='4', reasoning='2+2', train=None)

    Args:
        role: ``"system"``, ``"user"`` or ``"assistant"``.
        content: The text. A system message may have none: ``None`` is then the same as empty.
        reasoning: The reasoning, if the row has a field for it; empty is the same as none.
        train: Whether the row says that this turn is trained on, or is not.
        turn: Number of the message in its conversation from 0, for error messages.

    Raises:
        BadRow: The role does not exist, or a field is not text.
    """
    if role not in ROLES:
        raise unknown_role(role, ROLES, turn)
    if not isinstance(content, str):
        if content is not None or role != "system":
            raise wrong_type(f"content of message {turn}", "text", content)
        content = ""
    if reasoning is not None:
        if not isinstance(reasoning, str):
            raise wrong_type(f"reasoning of message {turn}", "text", reasoning)
        reasoning = reasoning if reasoning.strip() else None
    if (
        role == "assistant"
        and reasoning is None
        and content.startswith("<think>")
        and (literal := _LITERAL_REASONING.match(content))
    ):
        reasoning = literal[1].strip() or None
        content = content[literal.end() :].lstrip()
    return Message(role, content, reasoning, train)


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse messages that are no conversation to train on: their last message must be the assistant's.

    Raises:
        BadRow: Says which rule is broken, and by which message.
    """
    _check_turns(messages)
    if messages[-1].role != "assistant":
        raise BadRow("ends with user", f"expected the last message to be the assistant's, found {messages[-1].role!r}")


def check_prompt(messages: Sequence[Message]) -> None:
    """Refuse messages that an assistant cannot answer: their last message must be the user's.

    Earlier answers may be empty here, as models do give such answers.

    Raises:
        BadRow: Says which rule is broken, and by which message.
    """
    _check_turns(messages, is_prompt=True)
    if messages[-1].role != "user":
        raise BadRow("no question", f"expected the last message to be the user's, found {messages[-1].role!r}")


def check_text(message: Message, turn: int, *, may_be_empty: bool = False) -> None:
    """Refuse a message that says nothing, that UTF-8 cannot hold, or that has reasoning where none can be.

    Args:
        message: The message.
        turn: Its number in the conversation from 0, for the error message.
        may_be_empty: Whether it may say nothing.

    Raises:
        BadRow: Says what is wrong with which message.
    """
    content, reasoning = message.content, message.reasoning
    if not may_be_empty and (not content or (message.role != "user" and content.isspace())):
        found = show_value(content)
        raise BadRow("empty content", f"expected text in message {turn} ({message.role}), found {found}")
    if reasoning is not None:
        if message.role != "assistant":
            raise BadRow(
                "reasoning not on assistant",
                f"expected reasoning only on assistant messages, found it on message {turn} ({message.role})",
            )
        if not reasoning.strip():
            raise BadRow(
                "empty reasoning", f"expected text or nothing as reasoning of message {turn}, found white space"
            )
        _check_unicode(reasoning, message, turn)
    _check_unicode(content, message, turn)


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as an object of JSON; what is ``None`` is left out."""
    fields: dict[str, Any] = {"role": str(message.role), "content": message.content}
    if message.reasoning is not None:
        fields["reasoning"] = message.reasoning
    if message.train is not None:
        fields["train"] = message.train
    return fields


def _check_turns(messages: Sequence[Message], *, is_prompt: bool = False) -> None:
    has_system = bool(messages) and messages[0].role == "system"
    if len(messages) == has_system:
        found = "only a system message" if has_system else "none"
        raise BadRow("no messages", f"expected messages of user and assistant, found {found}")
    expected = "system" if has_system else "user"
    for turn, message in enumerate(messages):
        role = message.role
        if role != expected:
            if role == "system":
                raise BadRow("system not first", f"expected a system message only as the first, found it at {turn}")
            raise BadRow(
                "turns do not alternate",
                f"expected user and assistant in turn, user first; found {role!r} at message {turn}",
            )
        expected = "assistant" if role == "user" else "user"
        check_text(message, turn, may_be_empty=is_prompt and role == "assistant")


def _check_unicode(text: str, message: Message, turn: int) -> None:
    if text.isascii():  # a flag of the string: most texts are not looked at
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            "lone surrogate",
            f"expected Unicode text in message {turn} ({message.role}), "
            f"found half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}",
        ) from None
