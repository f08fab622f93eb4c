"""What is asked of a provider and what comes back, whatever protocol they speak."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Step = Literal["question", "draft", "critique", "revision", "conversation"]
"""``question`` is the user's turn; ``draft``, ``critique`` and ``revision`` the assistant's; ``conversation``: all."""

Stop = Literal["end", "max_tokens", "refusal", "other"]
"""Why an answer ended: by itself, cut off, refused by the provider, or something else (named in the raw response)."""


@dataclass(frozen=True)
class Request:
    """One request, which decides its own identity.

    Attributes:
        scenario: Number of the scenario in the plan, from 0.
        turn: Exchange of the conversation, from 0.
        step: What is asked for.
        model: As the provider calls it.
        shared: Beginning of the system prompt that all requests have in common, for the provider's prompt cache; may be
            empty.
        system: The rest of the system prompt; may be empty.
        messages: ``(role, text)`` of ``"user"`` and ``"assistant"`` in turn, the user's last.
        max_tokens: Longest answer.
        temperature: ``None`` leaves it to the server.
    """

    scenario: int
    turn: int
    step: Step
    model: str
    shared: str
    system: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float | None = None

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of everything above, 64 hex digits: what was answered under it is never asked again.

        Neither the server's address nor whether it goes in a batch counts: the answer would be the same.
        """
        asked = [getattr(self, field.name) for field in fields(self) if field.name != "shared"]
        return hashlib.sha256(json.dumps([_digest(self.shared), *asked]).encode()).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Bytes of all text, as UTF-8: no tokenizer makes more tokens of it, apart from a few for each message."""
        texts = (self.shared, self.system, *(text for _, text in self.messages))
        return sum(len(text.encode(errors="replace")) for text in texts)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the provider counted them; the three kinds of input do not overlap."""

    input: int = 0
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered: also a refusal or an answer that was cut off, which are results and were paid for.

    Attributes:
        text: The answer, as it came; may be empty.
        reasoning: Reasoning, where the provider gives it apart from the text.
        stop: Why it ended.
        usage: Tokens.
        model: The model that answered, as the provider names it.
        raw: The response as it came, as plain values of JSON; kept in the store.
    """

    text: str
    stop: Stop
    usage: Usage
    model: str
    reasoning: str | None = None
    raw: dict[str, Any] = field(default_factory=dict)


@functools.lru_cache(maxsize=8)
def _digest(text: str) -> str:
    """Return the SHA-256 of a text that thousands of requests have in common."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


FaultKind = Literal[
    "rate limit",
    "overloaded",
    "server error",
    "timeout",
    "no connection",
    "connection",
    "cut off",
    "malformed",
    "expired",
]


class Fault(Exception):
    """No answer came, and asking again may help.

    Args:
        kind: What happened. ``"no connection"``: nothing listens there, nothing answers, or the server's name is not
            known; ``"connection"``: it broke; ``"cut off"``: it broke within the answer; ``"malformed"``: the answer
            is none of this protocol; ``"expired"``: a batch ended before the request was processed.
        message: One line for the user; never holds a key.
        retry_after: Seconds the provider asks to wait, where it says so.
        maybe_paid: Whether the provider may have charged for it: true unless it said that it did not answer. What was
            reserved for the attempt then counts as spent.
    """

    def __init__(
        self, kind: FaultKind, message: str, *, retry_after: float | None = None, maybe_paid: bool = False
    ) -> None:
        super().__init__(message)
        self.kind, self.retry_after, self.maybe_paid = kind, retry_after, maybe_paid
