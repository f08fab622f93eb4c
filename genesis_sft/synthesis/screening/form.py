"""Screens of form: no conversation, control tokens spelled out, cut off, too short or too long."""

from __future__ import annotations

import re
from collections.abc import Iterator

from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.faults import BadRow
from genesis_sft.recipe.synthesis import ScreeningSection
from genesis_sft.synthesis.screening.candidate import Verdict, place
from genesis_sft.synthesis.screening.prose import has_open_fence, num_words

# the tokens of ChatML, and those of other templates that a model may know
_CONTROL = re.compile(r"<\|[A-Za-z][A-Za-z0-9_]{1,40}\|>|</?[Tt]hink>|\[/?INST\]|<</?SYS>>")
_OPEN_END = re.compile(r"(?:(?<![:;=-])\(|[:\[{])[*_]{0,3}\s*\Z")  # but for :-( and :(


def check_format(messages: tuple[Message, ...]) -> Verdict | None:
    """Reject what is no conversation to train on, with the rule that is broken: ``empty`` or ``wrong format``."""
    try:
        Conversation(messages)
    except BadRow as fault:
        return Verdict("empty" if fault.reason == "empty content" else "wrong format", str(fault))
    for number, message in enumerate(messages):
        if not message.content.strip():  # a user's white space is a conversation, but not one worth having
            return Verdict("empty", f"{place(number, message)} is white space")
    return None


def check_control_text(messages: tuple[Message, ...]) -> Verdict | None:
    """Reject control tokens spelled out as text, in any message."""
    for where, text in all_texts(messages):
        if found := _CONTROL.search(text):
            return Verdict("control text", f"{where} has {found[0]!r}")
    return None


def check_cut_off(messages: tuple[Message, ...]) -> Verdict | None:
    """Reject an answer that breaks off: in a block of code, or where something is announced that does not follow."""
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if has_open_fence(message.content):
            return Verdict("cut off", f"{place(number, message)} has a block of code that does not end")
        if _OPEN_END.search(message.content[-100:]):
            return Verdict("cut off", f"{place(number, message)} ends with {message.content.rstrip()[-40:]!r}")
    return None


def check_length(messages: tuple[Message, ...], section: ScreeningSection) -> Verdict | None:
    """Reject answers that are too short or too long, and users' turns that are too long; reasoning does not count."""
    for number, message in enumerate(messages):
        count = num_words(message.content)
        where = place(number, message)
        if message.role == "assistant" and count < section.min_answer_words:
            return Verdict("too short", f"{where} has {count} words, fewer than {section.min_answer_words}")
        most = {"assistant": section.max_answer_words, "user": section.max_question_words}.get(message.role, count)
        if count > most:
            return Verdict("too long", f"{where} has {count} words, more than {most}")
    return None


def all_texts(messages: tuple[Message, ...]) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of all that was written, reasoning included."""
    for number, message in enumerate(messages):
        if message.reasoning:
            yield f"the reasoning of {place(number, message)}", message.reasoning
        yield place(number, message), message.content
