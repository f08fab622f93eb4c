"""What a test says about the server's behaviour: faults, prices, limits. A JSON file with the fields of `Script`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson

FaultKind = Literal[
    "rate_limit",  # 429
    "overloaded",  # 529
    "server_error",  # 500
    "status",  # the status and error of the fault's own fields
    "hang",  # no answer, ever
    "disconnect",  # the connection ends before the answer
    "cut_off",  # the connection ends in the middle of the answer
    "malformed",  # 200, and half of a JSON text
    "wrong_shape",  # 200, JSON, and no answer of the protocol
    "refusal",  # an answer: the model refuses
    "max_tokens",  # an answer that is cut off by max_tokens
    "empty",  # an answer without text
    "no_usage",  # an answer without usage (chat completions)
    "echo_key",  # an answer that quotes the key the request came with
    "long",  # an answer, and 64 MB of white space behind it, in 64 kB of gzip
]
REFUSALS = frozenset(("rate_limit", "overloaded", "server_error", "status"))
"""Not answered, and said so with a status."""

RESULTS = frozenset(("refusal", "max_tokens", "empty", "no_usage"))
"""Answers, not failures: the same request always has the same, however often it is asked."""

PAID = frozenset(("hang", "disconnect", "cut_off", "malformed", "wrong_shape", "long"))
"""The model has answered and the client does not get it: billed."""


@dataclass(frozen=True)
class Fault:
    """When something goes wrong, and what. Of the conditions given, all must hold; without any, it always strikes.

    Attributes:
        fault: What.
        probability: Share of the requests, decided by seed and request: for failures anew at each try.
        at: Numbers of the server's requests, from 1.
        every: Every so many of the server's requests.
        keys: Keys (header idempotency-key, or custom_id in a batch) of the requests.
        contains: Part of the request's body.
        tries: It strikes only the first so many tries of a request.
        at_most: It strikes so many times in all.
        path: "messages", "chat", "create" (of a batch), "poll", "list", "results", "models", "line" (of results;
            "malformed" or "long" only); the first two when absent.
        retry_after: Value of the header, for 429 and 529: seconds or a date.
        status, type, message, code: For "status".
        billed: Whether it is billed all the same; for "hang", "disconnect", ... it is when absent.
    """

    fault: FaultKind
    probability: float | None = None
    at: tuple[int, ...] | None = None
    every: int | None = None
    keys: tuple[str, ...] | None = None
    contains: str | None = None
    tries: int | None = None
    at_most: int | None = None
    path: str | None = None
    retry_after: str | None = None
    status: int = 400
    type: str = "invalid_request_error"
    message: str = "the script says so"
    code: str | None = None
    billed: bool | None = None

    @property
    def is_billed(self) -> bool:
        return self.fault in PAID if self.billed is None else self.billed

    def strikes(self, path: str, key: str, body: bytes, tried: int, number: int, seed: int) -> bool:
        if path != self.path and not (self.path is None and path in ("messages", "chat")):
            return False
        if self.tries is not None and tried > self.tries:
            return False
        if self.at is not None and number not in self.at:
            return False
        if self.every is not None and number % self.every:
            return False
        if self.keys is not None and key not in self.keys:
            return False
        if self.contains is not None and self.contains.encode() not in body:
            return False
        if self.probability is None:
            return True
        moment = "" if self.fault in RESULTS else str(tried)
        return chance(seed, self.fault, hashlib.blake2b(body, digest_size=16).hexdigest(), moment) < self.probability


def chance(seed: int, *parts: str) -> float:
    """A number from 0 to 1 that depends on nothing but its arguments."""
    digest = hashlib.blake2b("\0".join((str(seed), *parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


@dataclass(frozen=True)
class Prices:
    """Nano-dollars per token. The default: Claude Haiku 4.5."""

    input: int = 1000
    output: int = 5000
    cache_write: int = 1250
    cache_read: int = 100
    batch_discount: float = 0.5


@dataclass(frozen=True)
class Spent:
    """Tokens of one request."""

    input: int = 0
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0

    def cost(self, prices: Prices, *, batch: bool = False) -> int:
        """Nano-dollars."""
        full = (
            self.input * prices.input
            + self.cache_write * prices.cache_write
            + self.cache_read * prices.cache_read
            + self.output * prices.output
        )
        return round(full * (1 - prices.batch_discount)) if batch else full

    def to_json(self) -> dict[str, int]:
        return {
            "input": self.input,
            "cache_write": self.cache_write,
            "cache_read": self.cache_read,
            "output": self.output,
        }


@dataclass(frozen=True)
class Batches:
    """How batches go.

    Attributes:
        polls: A batch has ended when it was polled so often.
        expired: Share of its items that expire.
        errored: Share of its items that end with a server error.
        invalid: Share of its items that end with invalid_request_error.
        break_results: So many times, a download of results breaks off half-way.
    """

    polls: int = 2
    expired: float = 0.0
    errored: float = 0.0
    invalid: float = 0.0
    break_results: int = 0


@dataclass(frozen=True)
class Script:
    """The server's behaviour.

    Attributes:
        seed: For all that is drawn.
        key: The API key it wants; any, even none, when absent.
        models: The models it has; any when empty.
        prices: What it bills.
        cache_minimum: Shortest prefix that its prompt cache holds, in tokens; for the Messages API.
        cache_seconds: How long after its last use.
        bytes_per_token: How it counts tokens: bytes of UTF-8 by this, rounded up, and 3 for each message.
        context: Longest prompt and answer together, in tokens.
        latency_seconds: Before each answer.
        at_once: More requests than this at once are answered 429.
        retry_after: Header of these.
        path_prefixes: What may stand before /v1/....
        faults: The first that strikes does.
        rules: What kind of text is asked for: ``(part of the last message or last system block, kind)``, first match;
            kinds: see `text.py`. Before its own rules.
        words: Shortest and longest answer, in words, about.
        batches: How batches go.
    """

    seed: int = 0
    key: str | None = None
    models: tuple[str, ...] = ()
    prices: Prices = Prices()
    cache_minimum: int = 4096
    cache_seconds: float = 300.0
    bytes_per_token: float = 4.0
    context: int = 200_000
    latency_seconds: float = 0.0
    at_once: int | None = None
    retry_after: str = "1"
    path_prefixes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    words: tuple[int, int] = (40, 140)
    batches: Batches = field(default_factory=Batches)

    @classmethod
    def read(cls, path: Path) -> Script:
        return cls.from_json(orjson.loads(path.read_bytes()))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Script:
        script = cls(**{name: _frozen(value) for name, value in values.items() if name not in _PARTS})
        for name, part in _PARTS.items():
            if name in values:
                given = values[name]
                made: Any = (
                    tuple(part(**{k: _frozen(v) for k, v in one.items()}) for one in given)
                    if isinstance(given, list)
                    else part(**given)
                )
                script = replace(script, **{name: made})
        return script


_PARTS: dict[str, Any] = {"prices": Prices, "faults": Fault, "batches": Batches}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
