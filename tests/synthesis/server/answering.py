"""What happens to a request for an answer, whichever of the two protocols it comes by."""

from __future__ import annotations

import gzip
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tests.synthesis.server.http import Reply, Wanted, json_reply
from tests.synthesis.server.script import PAID, REFUSALS, Fault, Script, Spent
from tests.synthesis.server.world import World

TOKENS_PER_MESSAGE = 3


@dataclass(frozen=True)
class Endpoint:
    """What the protocols do each in its own way.

    Attributes:
        path: Name in log and script.
        refuse: The reply to a request whose headers are wrong, if they are.
        find_problem: Status, type, message (and code) of what the provider would refuse.
        error_reply: Of these.
        status_reply: The reply to a request that a fault refuses.
        complete: What is answered, and what it costs.
        headers: Of an answer.
    """

    path: Literal["messages", "chat"]
    refuse: Callable[[World, Wanted], Reply | None]
    find_problem: Callable[[Script, dict[str, Any]], tuple[Any, ...] | None]
    error_reply: Callable[..., Reply]
    status_reply: Callable[[World, Fault], Reply]
    complete: Callable[[World, dict[str, Any], Fault | None], tuple[dict[str, Any], Spent]]
    headers: Callable[[World], dict[str, str]]


def post_request(world: World, wanted: Wanted, endpoint: Endpoint) -> Reply:
    """The reply to a request for an answer, as the script has it."""
    return _with_key(world, wanted, _post(world, wanted, endpoint))


def _post(world: World, wanted: Wanted, endpoint: Endpoint) -> Reply:
    refused = endpoint.refuse(world, wanted)
    if refused is not None:
        return refused
    try:
        params = orjson.loads(wanted.body)
    except orjson.JSONDecodeError:
        return endpoint.error_reply(world, 400, "invalid_request_error", "The request body is not valid JSON")
    script, body = world.script, canonical(params)
    key = wanted.headers.get("idempotency-key") or hashlib.sha256(body).hexdigest()
    entry: dict[str, Any] = {"n": world.num_requests, "key": key, "path": endpoint.path}
    if script.at_once is not None and world.under_way > script.at_once:
        world.write_log(**entry, status=429, fault="at_once", billed=0)
        return endpoint.status_reply(world, Fault("rate_limit", retry_after=script.retry_after))
    fault = world.fault_for(endpoint.path, key, body)
    if fault is not None and fault.fault in REFUSALS:
        reply = endpoint.status_reply(world, fault)
        world.write_log(**entry, status=reply.status, fault=fault.fault, billed=0)
        return reply
    problem = endpoint.find_problem(script, params)
    if problem is not None:
        world.write_log(**entry, status=problem[0], billed=0, message=problem[2])
        return endpoint.error_reply(world, *problem)
    value, spent = endpoint.complete(world, params, fault)
    paid = fault is None or fault.fault not in PAID or fault.is_billed
    billed = spent.cost(script.prices) if paid else 0
    world.write_log(**entry, status=200, fault=fault and fault.fault, usage=spent.to_json(), billed=billed)
    return broken(json_reply(200, value, endpoint.headers(world), delay=script.latency_seconds), fault)


def broken(reply: Reply, fault: Fault | None) -> Reply:
    """The reply, as the fault leaves it."""
    if fault is None or fault.fault not in PAID:
        return reply
    body = reply.body
    if fault.fault == "malformed":
        body = body[: len(body) // 2]
    elif fault.fault == "wrong_shape":
        body = orjson.dumps({"status": "ok", "content": 7, "choices": {}, "usage": ["many"]})
    elif fault.fault == "long":
        return Reply(
            reply.status,
            gzip.compress(body + b" " * 64_000_000, 9),
            reply.headers | {"content-encoding": "gzip"},
            delay=reply.delay,
        )
    how: Any = fault.fault if fault.fault in ("hang", "disconnect", "cut_off") else None
    return Reply(reply.status, body, reply.headers, broken=how, delay=reply.delay)


def _with_key(world: World, wanted: Wanted, reply: Reply) -> Reply:
    """The reply, with the key quoted in it where the script says so."""
    if not any(fault.fault == "echo_key" for fault in world.script.faults):
        return reply
    return json_reply(
        reply.status, orjson.loads(reply.body) | {"debug": {"key": key_of(wanted)}}, reply.headers, delay=reply.delay
    )


def key_of(wanted: Wanted) -> str:
    return wanted.headers.get("x-api-key") or wanted.headers.get("authorization", "").removeprefix("Bearer ")


def canonical(params: dict[str, Any]) -> bytes:
    """What the answer depends on: the same whether it comes alone or in a batch."""
    parts = ("model", "system", "messages", "max_tokens", "max_completion_tokens", "temperature")
    return orjson.dumps({name: params.get(name) for name in parts}, option=orjson.OPT_SORT_KEYS)


def shape(text: str, max_tokens: int, fault: Fault | None, script: Script) -> tuple[str, str]:
    """The text and why it stops, as the fault and the limit leave it."""
    kind = fault.fault if fault is not None else ""
    if kind == "empty":
        return "", "end_turn"
    if kind == "refusal":
        return "I cannot help", "refusal"
    longest = int(max_tokens * script.bytes_per_token)
    if kind == "max_tokens":
        longest = min(longest, len(text.encode()) // 2)
    if len(text.encode()) > longest:
        return text.encode()[:longest].decode(errors="ignore"), "max_tokens"
    return text, "end_turn"


def count(script: Script, text: str) -> int:
    return math.ceil(len(text.encode()) / script.bytes_per_token)
