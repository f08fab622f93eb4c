"""What the job store holds, as values: answers with their requests, and sums over them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import zstandard

from genesis_sft.synthesis.asking.request import Answer, Request, Step, Usage

_PACK_FROM_BYTES = 512
_LONGEST_NAME = 200
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LARGEST_TOKENS = 10**12  # millions of them still add up within SQLite's 63 bits

LARGEST_COST = 10**15
"""Nano-dollars, a million dollars: what no request costs."""

LEFT_OUT = "left out"
"""Key of a note that stands in the place of a response that cannot be stored."""

_compressor = zstandard.ZstdCompressor()  # made once: making one takes longer than a response does


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer in the store.

    Attributes:
        key: Of its request.
        request: What was asked.
        answer: What was answered; its ``raw`` is left out, see `JobStore.raw`.
        cost: Nano-dollars.
    """

    key: str
    request: Request
    answer: Answer
    cost: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the whole store, answers that are out of use included: they were paid for.

    Attributes:
        requests: Requests recorded.
        answered: Those that have an answer.
        unanswerable: Those that the provider cannot answer, e.g. too long for the model.
        attempts: How often something was sent.
        faults: Kind to number of attempts that ended so; ``"lost"``: the process was killed.
        usage: Tokens of all answers.
        spent: Nano-dollars, cost of all answers.
        maybe_spent: Nano-dollars reserved for attempts of which nobody knows whether they were charged for.
        reserved: Nano-dollars reserved for attempts under way.
        under_way: Attempts that have not ended.
    """

    requests: int
    answered: int
    unanswerable: int
    attempts: int
    faults: Mapping[str, int]
    usage: Usage
    spent: int
    maybe_spent: int
    reserved: int
    under_way: int


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sums over the answers to one step, from which a forecast takes its averages.

    Attributes:
        answers: Number of answers.
        request_bytes: Bytes of their requests, as `Request.num_bytes` counts them.
        answer_bytes: Bytes of the answers' text and reasoning, as UTF-8.
        usage: Tokens.
        cost: Nano-dollars.
    """

    answers: int
    request_bytes: int
    answer_bytes: int
    usage: Usage
    cost: int


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A Message Batch whose results are not collected.

    Attributes:
        id: Its number in the store.
        server_id: The provider's name for it; ``None`` when it is not known whether the provider has it.
        created_at: When it was about to be sent, ISO 8601.
        count: Number of its requests.
        price: The prices at which it was sent, as JSON.
    """

    id: int
    server_id: str | None
    created_at: str
    count: int
    price: str


def request_body(request: Request) -> str:
    """Return a request as JSON, without its shared beginning."""
    fields = asdict(request)
    del fields["shared"]
    return json.dumps(fields)


def read_request(body: str, shared: str) -> Request:
    """Return the request of which `request_body` wrote the body."""
    fields = json.loads(body)
    messages = tuple((role, text) for role, text in fields.pop("messages"))
    return Request(**fields, messages=messages, shared=shared)


def storable(answer: Answer) -> Answer:
    """Return an answer as it reads when it comes back from the store.

    What UTF-8 cannot hold is replaced, and counts of tokens end at a million millions.
    """
    tokens = (getattr(answer.usage, field.name) for field in fields(answer.usage))
    reasoning = answer.reasoning if answer.reasoning is None else _as_utf8(answer.reasoning)
    return Answer(
        text=_as_utf8(answer.text),
        stop=answer.stop,
        usage=Usage(*(max(0, min(count, _LARGEST_TOKENS)) for count in tokens)),
        model=_as_utf8(answer.model),
        reasoning=reasoning,
        raw=answer.raw,
    )


def without_content(answer: Answer) -> Answer:
    """Return what stands for an answer that cannot be stored: its conversation cannot go on."""
    return replace(answer, text="", reasoning=None, stop="other", model=answer.model[:_LONGEST_NAME])


def pack(raw: Mapping[str, Any]) -> bytes:
    """Return a response as JSON, compressed where that saves much; a note in its place where JSON cannot hold it."""
    try:
        plain = json.dumps(raw).encode()
    except (RecursionError, ValueError, TypeError) as error:  # nested too deep, a number of thousands of digits
        plain = json.dumps({LEFT_OUT: f"the response cannot be written as JSON: {error}"}).encode()
    return _compressor.compress(plain) if len(plain) >= _PACK_FROM_BYTES else plain


def unpack(packed: bytes) -> dict[str, Any]:
    """Return the response that `pack` wrote."""
    plain = zstandard.decompress(packed) if packed.startswith(_ZSTD_MAGIC) else packed
    found: dict[str, Any] = json.loads(plain)
    return found


def read_stored(row: sqlite3.Row, shared: str) -> Stored:
    """Return the answer in a row of `STORED`.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, RecursionError: The row is damaged.
    """
    for name in ("text", "stop", "model", "body"):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} is no text")
    if not isinstance(row["reasoning"], str | None):
        raise TypeError("reasoning is no text")
    for name in ("cost", "input", "cache_write", "cache_read", "output"):
        if not isinstance(row[name], int):
            raise TypeError(f"{name} is no whole number")
    answer = Answer(
        text=row["text"], stop=row["stop"], usage=read_usage(row), model=row["model"], reasoning=row["reasoning"]
    )
    return Stored(row["key"], read_request(row["body"], shared), answer, row["cost"])


def read_usage(row: sqlite3.Row) -> Usage:
    """Return the tokens in a row."""
    return Usage(row["input"], row["cache_write"], row["cache_read"], row["output"])


STORED = """
SELECT requests.scenario, requests.key, requests.shared, requests.body, attempts.cost, attempts.input,
       attempts.cache_write, attempts.cache_read, attempts.output, answers.text, answers.reasoning, answers.stop,
       answers.model
FROM requests JOIN answers ON answers.request = requests.id JOIN attempts ON attempts.id = answers.attempt
"""

TOTALS = """
SELECT (SELECT count(*) FROM requests) AS requests,
       (SELECT count(*) FROM requests WHERE state = 'answered') AS answered,
       (SELECT count(*) FROM requests WHERE state = 'unanswerable') AS unanswerable,
       count(*) AS attempts, count(*) - count(outcome) AS under_way,
       ifnull(sum(cost), 0) AS spent, ifnull(sum(maybe_cost), 0) AS maybe_spent,
       ifnull(sum(CASE WHEN outcome IS NULL THEN reserved END), 0) AS reserved,
       ifnull(sum(input), 0) AS input, ifnull(sum(cache_write), 0) AS cache_write,
       ifnull(sum(cache_read), 0) AS cache_read, ifnull(sum(output), 0) AS output
FROM attempts
"""

BY_STEP = """
SELECT requests.step, count(*) AS answers, sum(requests.num_bytes) AS request_bytes,
       sum(length(CAST(answers.text AS BLOB)) + ifnull(length(CAST(answers.reasoning AS BLOB)), 0)) AS answer_bytes,
       sum(attempts.input) AS input, sum(attempts.cache_write) AS cache_write,
       sum(attempts.cache_read) AS cache_read, sum(attempts.output) AS output, sum(attempts.cost) AS cost
FROM requests JOIN answers ON answers.request = requests.id JOIN attempts ON attempts.id = answers.attempt
GROUP BY requests.step ORDER BY requests.step
"""


def read_step_totals(row: sqlite3.Row) -> tuple[Step, StepTotals]:
    """Return the sums in a row of `BY_STEP`."""
    return row["step"], StepTotals(
        row["answers"], row["request_bytes"], row["answer_bytes"], read_usage(row), row["cost"]
    )


def _as_utf8(text: str) -> str:
    return text.encode(errors="replace").decode()
