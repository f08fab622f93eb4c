"""Turns out of order, put in order where a recipe asks for it (``turns: repair``)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from genesis_sft.conversations.conversation import Message, check_text
from genesis_sft.conversations.faults import BadRow

MERGED = "merged turns"
ANSWER_DROPPED = "answer before the first question dropped"
QUESTION_DROPPED = "question after the last answer dropped"


def repair_turns(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[str]]:
    r"""Return the messages with their turns in order, and the rules that this took.

    1. Answers before the first question are dropped.
    2. Questions after the last answer are dropped.
    3. Neighbouring messages of one role become one, their texts joined by a blank line.

    What the rules do not mend stays as it is, for `check_messages` to refuse: a system message after the first turn, or
    messages without any question or any answer.

    Example:
        >>> repair_turns((Message("user", "a"), Message("user", "b"), Message("assistant", "c")))
        ((Message(role='user', content='a\n\nb', ...), Message(role='assistant', content='c', ...)), ['merged turns'])

    Raises:
        BadRow: Messages to be merged are empty, or differ in reasoning or ``train``.
    """
    roles = [message.role for message in messages]
    if "user" not in roles or "assistant" not in roles:
        return tuple(messages), []
    first_question = roles.index("user")
    last_answer = len(roles) - 1 - roles[::-1].index("assistant")
    kept = [
        (turn, message)
        for turn, message in enumerate(messages)
        if not (message.role == "assistant" and turn < first_question)
        and not (message.role == "user" and turn > last_answer)
    ]
    rules = [ANSWER_DROPPED] if "assistant" in roles[:first_question] else []
    rules += [QUESTION_DROPPED] if "user" in roles[last_answer:] else []
    merged = tuple(_merge(list(group)) for _, group in groupby(kept, key=lambda item: item[1].role))
    return merged, rules + ([MERGED] if len(merged) < len(kept) else [])


def _merge(group: list[tuple[int, Message]]) -> Message:
    """Return one message for neighbours of one role, given with their numbers in the row."""
    if len(group) == 1:
        return group[0][1]
    for turn, message in group:  # an empty text would be hidden by the others
        check_text(message, turn)
    if len({(message.reasoning, message.train) for _, message in group}) > 1:
        turns = " and ".join(str(turn) for turn, _ in group[:4])
        raise BadRow("turns cannot be merged", f"expected messages {turns} to have the same reasoning and train")
    _, first = group[0]
    return Message(first.role, "\n\n".join(message.content for _, message in group), first.reasoning, first.train)
