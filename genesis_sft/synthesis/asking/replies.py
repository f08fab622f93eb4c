"""What a model's answer says: a question, an answer with reasoning, a critique, or a whole conversation.

All of it is text from outside: whatever stands in it, the outcome is a part of a conversation or an `Unusable`.
"""

from __future__ import annotations

import re

from genesis_sft.conversations.conversation import Message, check_text
from genesis_sft.conversations.faults import BadRow, show_value
from genesis_sft.synthesis.asking.request import Answer

# spellings of control tokens of the common chat formats, and control characters other than tab and line breaks
_CONTROL = re.compile(
    r"<\|\w{1,40}\|>|<｜[^<>｜\s]{1,60}｜>|</?think>|\[/?INST\]|<(?:start|end)_of_turn>|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_USER_LABEL = re.compile(r"(?:\*\*)?(?:user|human)(?:\*\*)?:(?:\*\*)?\s*", re.IGNORECASE)
_ASSISTANT_LABEL = re.compile(r"(?:\*\*)?(?:assistant|revised answer|new answer)(?:\*\*)?:(?:\*\*)?\s*", re.IGNORECASE)
_ASSISTANT_TURN = re.compile(r"^(?:\*\*)?assistant(?:\*\*)?:", re.IGNORECASE | re.MULTILINE)
_SECTION = re.compile(r"^(USER|REASONING|ANSWER):[ \t]*", re.MULTILINE)
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'", "‘": "’"}


class Unusable(Exception):
    """An answer that a conversation cannot go on from.

    Args:
        reason: In a few words, the same for all answers that have the fault.
        detail: What was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def read_question(answer: Answer) -> Message:
    """Return a user's turn; quotation marks around it and a label in front of it are taken off.

    Raises:
        Unusable: There is none.
    """
    _, text = _split(_whole(answer))
    if label := _USER_LABEL.match(text):
        text = text[label.end() :]
        if _ASSISTANT_TURN.search(text):
            raise Unusable("wrong format", "expected only the user's turn, found the assistant's as well")
    return _message("user", _unquote(text))


def plain_question(text: str) -> str:
    """Return a user's turn that a person wrote, without white space around it.

    Raises:
        Unusable: It is empty, or holds what no text may.
    """
    return _message("user", text).content


def read_answer(answer: Answer, *, wants_reasoning: bool) -> Message:
    """Return an assistant's turn.

    Reasoning stands between ``<think>`` and ``</think>`` at the start, or comes apart from the text; where none is
    wanted it is dropped, and where it is wanted and missing the answer does without.

    Raises:
        Unusable: There is none.
    """
    reasoning, text = _split(_whole(answer))
    if label := _ASSISTANT_LABEL.match(text):
        text = text[label.end() :]
    reasoning = reasoning or (answer.reasoning or "").strip()
    return _message("assistant", text, reasoning if wants_reasoning else None)


def read_critique(answer: Answer) -> str:
    """Return a critique, which may be cut off or empty: it is for the revision only.

    Raises:
        Unusable: The provider refused to give one.
    """
    if answer.stop == "refusal":
        raise Unusable("refused by the provider", _shown(answer.text))
    try:
        _, text = _split(answer.text.strip())
    except Unusable:  # cut off while the model was still thinking
        return ""
    return text.encode(errors="replace").decode()  # it goes into a request: half a surrogate pair cannot be sent


def read_conversation(answer: Answer, turns: int, *, wants_reasoning: bool) -> list[tuple[Message, Message]]:
    r"""Return the exchanges of a conversation, written as sections that begin a line each.

    Example::

        USER: 7 times 8?
        REASONING: 7 * 8 = 56.
        ANSWER: 56

    Args:
        answer: The model's answer.
        turns: How many exchanges there must be.
        wants_reasoning: Whether sections of reasoning count; they are dropped otherwise.

    Raises:
        Unusable: There is no conversation of this form and length.
    """
    _, text = _split(_whole(answer))
    before, *parts = _SECTION.split(text)
    if before.strip():
        raise Unusable("wrong format", f"expected USER: at the start, found {_shown(before)}")
    sections = list(zip(parts[::2], parts[1::2], strict=True))
    exchanges: list[tuple[Message, Message]] = []
    place = 0
    while place < len(sections) and len(exchanges) < turns:
        question = _text_of(sections, place, "USER")
        place += 1
        reasoning = None
        if place < len(sections) and sections[place][0] == "REASONING":
            reasoning = sections[place][1]
            place += 1
        reply = _message("assistant", _text_of(sections, place, "ANSWER"), reasoning if wants_reasoning else None)
        place += 1
        exchanges.append((_message("user", question), reply))
    if len(exchanges) != turns or place < len(sections):
        number = len(exchanges) + sum(label == "USER" for label, _ in sections[place:])
        found = number if number != turns else f"{sections[place][0]}: after them"
        raise Unusable("wrong format", f"expected {turns} exchanges, found {found}")
    return exchanges


def _text_of(sections: list[tuple[str, str]], place: int, label: str) -> str:
    found, text = sections[place] if place < len(sections) else ("the end", "")
    if found != label:
        raise Unusable("wrong format", f"expected {label}:, found {found}")
    return text


def _whole(answer: Answer) -> str:
    """Return the text of an answer that ended by itself."""
    if answer.stop == "max_tokens":
        raise Unusable("cut off", f"the answer reached its longest length of {answer.usage.output} tokens")
    if answer.stop == "refusal":
        raise Unusable("refused by the provider", _shown(answer.text))
    if answer.stop == "other":
        raise Unusable("stopped early", "the provider names another reason than the end, see the raw response")
    return answer.text.strip()


def _split(text: str) -> tuple[str, str]:
    """Return the reasoning at the start of a text, and the rest."""
    if not text.startswith("<think>"):
        return "", text
    literal = _THINK.match(text)
    if literal is None:
        raise Unusable("malformed reasoning", "expected </think> after <think>, found none")
    return literal[1].strip(), text[literal.end() :].strip()


def _unquote(text: str) -> str:
    """Take off a pair of quotation marks that stands around the whole of a text and nowhere within it."""
    inner = text[1:-1]
    closing = _QUOTES.get(text[:1])
    if len(text) < 2 or closing is None or text[-1] != closing or text[0] in inner or closing in inner:
        return text
    return inner.strip()


def _message(role: str, text: str, reasoning: str | None = None) -> Message:
    assert role in ("user", "assistant")
    text, reasoning = text.strip(), (reasoning or "").strip() or None
    if not text:
        raise Unusable("empty answer", f"expected the {role}'s text, found none")
    if control := _CONTROL.search(text) or _CONTROL.search(reasoning or ""):
        raise Unusable("control text", f"expected plain text, found {show_value(control[0])}")
    message = Message("user" if role == "user" else "assistant", text, reasoning)
    try:
        check_text(message, 0)
    except BadRow as bad:
        raise Unusable("wrong format", str(bad)) from None
    return message


def _shown(text: str) -> str:
    return show_value(text.strip())
