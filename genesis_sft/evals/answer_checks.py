"""What can go wrong in a generated answer, check by check; pure functions of the answer as the record holds it.

=======================  ===========================================================================================
ends its turn            the answer's last token ends the turn, before the limit on its length
is empty                 there is no text in it
repeats itself           a passage in a row, or over and over (`repetition`), reasoning included
speaks for the user      a line begins with ``User:``, ``Human:`` or the like, or a control token opens the user's turn
leaks control text       a control token or its text, of any chat format, stands before the end of the answer
malformed <think>        ``<think>`` and ``</think>`` are there, but not as one thought in front of an answer
obeys the instruction    all demands of the prompt are fulfilled that a program can verify (`instructions`)
=======================  ===========================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from genesis_sft.evals.instructions import obeys
from genesis_sft.evals.record import ChatAnswer
from genesis_sft.evals.repetition import repeats_itself


@dataclass(frozen=True)
class Check:
    """One thing that an answer does or does not.

    Attributes:
        name: What it is called in tables.
        better: Whether more or fewer such answers are better.
        holds: Says whether an answer does it; None where the question does not arise, and the answer is left out.
        text: Its rule in a sentence.
    """

    name: str
    better: Literal["more", "less"]
    holds: Callable[[ChatAnswer], bool | None]
    text: str


_CONTROL_TEXT = re.compile(
    r"<\|\w{2,40}\|>|<｜[^<>｜\s]{2,60}｜>"  # ChatML, Llama 3, Phi, end of text; DeepSeek
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"  # Llama 2, Mistral, Gemma
    r"|^###[ \t](?:Instruction|Input|Response):",  # Alpaca
    re.MULTILINE,
)
_SENTENCEPIECE_END = re.compile(r"</?s>")
_LAST_TOKEN = re.compile(r"(?:<\|\w{2,40}\|>|<｜[^<>｜\s]{2,60}｜>|</s>|<end_of_turn>|<eos>)\Z")
_USERS_TURN = re.compile(
    r"^[ \t]*+(?:\#{1,6}[ \t]*+)?(?:\*\*|__)?(?:User|Human|USER|HUMAN)(?:[ \t]*+(?:\*\*|__))?:"
    r"|<\|im_start\|>[ \t]*+user\b|<\|user\|>|<\|start_header_id\|>[ \t]*+user\b|<start_of_turn>[ \t]*+user\b",
    re.MULTILINE,
)
_THINK = re.compile(r"</?think>")


def _ends_its_turn(answer: ChatAnswer) -> bool:
    return answer.ended


def _is_empty(answer: ChatAnswer) -> bool:
    return answer.empty


def _repeats_itself(answer: ChatAnswer) -> bool:
    return repeats_itself(f"{answer.reasoning or ''}\n\n{answer.answer}")


def _speaks_for_the_user(answer: ChatAnswer) -> bool:
    return bool(_USERS_TURN.search(answer.written or answer.answer))


def _leaks_control_text(answer: ChatAnswer) -> bool | None:
    if _is_unknown(answer):
        return None
    body = _without_last_token(answer)
    pieces = set(_SENTENCEPIECE_END.findall(body))
    return bool(_CONTROL_TEXT.search(body)) or len(pieces) == 1  # <s> and </s> together are struck out text of HTML


def _malformed_think(answer: ChatAnswer) -> bool | None:
    if _is_unknown(answer):
        return None
    body = _without_last_token(answer)
    marks = _THINK.findall(body)
    if not marks:
        return False
    one_thought = marks == ["<think>", "</think>"] and body.lstrip().startswith("<think>")
    return not (one_thought and body.partition("</think>")[2].strip())


def _is_unknown(answer: ChatAnswer) -> bool:
    """Whether the record does not say what was written, control tokens included."""
    return not answer.written and answer.num_tokens > 0 and not answer.empty


def _without_last_token(answer: ChatAnswer) -> str:
    """Return what was written without the token that ended the turn."""
    return _LAST_TOKEN.sub("", answer.written, count=1) if answer.ended else answer.written


_ALL = (
    Check("ends its turn", "more", _ends_its_turn, "The answer's last token ends the turn, before the limit."),
    Check("is empty", "less", _is_empty, "There is no text in the answer."),
    Check(
        "repeats itself",
        "less",
        _repeats_itself,
        "A passage stands three times or more in a row, 24 words in all; or 45 % of all runs of eight words were there "
        "before.",
    ),
    Check(
        "speaks for the user",
        "less",
        _speaks_for_the_user,
        "A line begins with User: or Human:, or a control token opens the user's turn.",
    ),
    Check(
        "leaks control text",
        "less",
        _leaks_control_text,
        "A control token or its text, of any chat format, stands before the end of the answer.",
    ),
    Check(
        "malformed <think>",
        "less",
        _malformed_think,
        "<think> and </think> are there, but not as one thought in front of an answer.",
    ),
    Check(
        "obeys the instruction",
        "more",
        obeys,
        "All demands of the prompt that a program can verify are fulfilled.",
    ),
)
CHECKS: Mapping[str, Check] = {check.name: check for check in _ALL}
"""Name to check, in the order of the tables."""
