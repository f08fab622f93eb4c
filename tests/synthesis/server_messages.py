"""POST /v1/messages as Anthropic answers it: errors and their headers, prompt cache, usage."""

from __future__ import annotations

import gzip
import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

import orjson

from tests.synthesis.server_http import Reply, Wanted, json_reply
from tests.synthesis.server_script import Fault, Script, Spent
from tests.synthesis.server_text import write_text

if TYPE_CHECKING:
    from tests.synthesis.server import World

TOKENS_PER_MESSAGE = 3
_STATUS_TYPES = {
    "rate_limit": (429, "rate_limit_error", "This request would exceed your account's rate limit."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "server_error": (500, "api_error", "Internal server error"),
}


def post_message(world: World, wanted: Wanted) -> Reply:
    refused = check_headers(world, wanted)
    if refused is not None:
        return refused
    try:
        params = orjson.loads(wanted.body)
    except orjson.JSONDecodeError:
        return error_reply(world, 400, "invalid_request_error", "The request body is not valid JSON")
    body = canonical(params)
    key = wanted.headers.get("idempotency-key") or hashlib.sha256(body).hexdigest()
    script = world.script
    if script.at_once is not None and world.under_way > script.at_once:
        world.write_log(n=world.num_requests, key=key, path="messages", status=429, fault="at_once", billed=0)
        return status_reply(world, Fault("rate_limit", retry_after=script.retry_after))
    fault = world.fault_for("messages", key, body)
    if fault is not None and fault.fault in (*_STATUS_TYPES, "status"):
        reply = status_reply(world, fault)
        world.write_log(
            n=world.num_requests, key=key, path="messages", status=reply.status, fault=fault.fault, billed=0
        )
        return reply
    problem = find_problem(script, params)
    if problem is not None:
        world.write_log(n=world.num_requests, key=key, path="messages", status=problem[0], billed=0, message=problem[2])
        return error_reply(world, *problem)
    message, spent = complete(world, params, fault)
    paid = fault is None or fault.fault not in _BREAKS or fault.is_billed
    billed = spent.cost(script.prices) if paid else 0
    world.write_log(
        n=world.num_requests,
        key=key,
        path="messages",
        status=200,
        fault=fault and fault.fault,
        usage=spent.to_json(),
        billed=billed,
    )
    return broken(json_reply(200, message, headers_of(world), delay=script.latency_seconds), fault)


_BREAKS = ("hang", "disconnect", "cut_off", "malformed", "wrong_shape", "long")


def broken(reply: Reply, fault: Fault | None) -> Reply:
    """The reply, as the fault leaves it."""
    if fault is None or fault.fault not in _BREAKS:
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


def with_key(world: World, wanted: Wanted, reply: Reply) -> Reply:
    """The reply, with the key quoted in it where the script says so."""
    if not any(fault.fault == "echo_key" for fault in world.script.faults):
        return reply
    return json_reply(
        reply.status, orjson.loads(reply.body) | {"debug": {"key": key_of(wanted)}}, reply.headers, delay=reply.delay
    )


def key_of(wanted: Wanted) -> str:
    return wanted.headers.get("x-api-key") or wanted.headers.get("authorization", "").removeprefix("Bearer ")


def check_headers(world: World, wanted: Wanted) -> Reply | None:
    """Both forms of the key that Anthropic takes: ``x-api-key``, and a bearer token."""
    given = key_of(wanted)
    refused = None
    if world.script.key is not None and given != world.script.key:
        refused = (401, "authentication_error", f"invalid x-api-key {given[:80]}")
    elif "anthropic-version" not in wanted.headers:
        refused = (400, "invalid_request_error", "anthropic-version: header is required")
    if refused is None:
        return None
    world.write_log(n=world.num_requests, path="refused", status=refused[0], headers=wanted.headers, billed=0)
    return error_reply(world, *refused)


def canonical(params: dict[str, Any]) -> bytes:
    """What the answer depends on: the same whether it comes alone or in a batch."""
    parts = ("model", "system", "messages", "max_tokens", "max_completion_tokens", "temperature")
    return orjson.dumps({name: params.get(name) for name in parts}, option=orjson.OPT_SORT_KEYS)


def find_problem(script: Script, params: dict[str, Any]) -> tuple[int, str, str] | None:
    """Status, type and message of what Anthropic would refuse."""
    messages, max_tokens = params.get("messages"), params.get("max_tokens")
    invalid = "invalid_request_error"
    if script.models and params.get("model") not in script.models:
        return 404, "not_found_error", f"model: {params.get('model')}"
    if not isinstance(max_tokens, int) or max_tokens < 1:
        return 400, invalid, "max_tokens: Field required"
    if not isinstance(messages, list) or not messages:
        return 400, invalid, "messages: at least one message is required"
    for place, message in enumerate(messages):
        if message.get("role") != ("user", "assistant")[place % 2]:
            return 400, invalid, f"messages.{place}: roles must alternate, beginning with user"
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            return 400, invalid, f"messages.{place}: text content blocks must be non-empty"
    if messages[-1]["role"] != "user":
        return 400, invalid, "messages: the last message must be the user's"
    system = params.get("system", [])
    for place, block in enumerate(system if isinstance(system, list) else []):
        if block.get("type") != "text" or not block.get("text"):
            return 400, invalid, f"system.{place}: text content blocks must be non-empty"
        if block.get("cache_control", {"type": "ephemeral"}) != {"type": "ephemeral"}:
            return 400, invalid, f"system.{place}.cache_control: unknown"
    prompt = count_input(script, params)
    if prompt + max_tokens > script.context:
        return 400, invalid, f"prompt is too long: {prompt} tokens > {script.context - max_tokens} maximum"
    return None


def complete(world: World, params: dict[str, Any], fault: Fault | None) -> tuple[dict[str, Any], Spent]:
    """The message that answers, and what it costs."""
    script = world.script
    system = blocks_of(params)
    last = params["messages"][-1]["content"]
    text = write_text(canonical(params), system[-1]["text"] if system else "", last, script)
    text, stop = shape(text, params["max_tokens"], fault, script)
    cache_write, cache_read = _use_cache(world, params["model"], system)
    whole_input = count_input(script, params)
    spent = Spent(whole_input - cache_write - cache_read, cache_write, cache_read, count(script, text))
    message = {
        "id": world.next_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": params["model"],
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {
            "input_tokens": spent.input,
            "cache_creation_input_tokens": spent.cache_write,
            "cache_read_input_tokens": spent.cache_read,
            "cache_creation": {"ephemeral_5m_input_tokens": spent.cache_write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": spent.output,
            "service_tier": "standard",
        },
    }
    return message, spent


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


def _use_cache(world: World, model: str, system: list[dict[str, Any]]) -> tuple[int, int]:
    """Tokens written and read of the longest marked prefix; an entry lives on with each use."""
    script, now = world.script, time.monotonic()
    prefix, marked = "", ""
    for block in system:
        prefix += block["text"]
        if "cache_control" in block:
            marked = prefix
    tokens = count(script, marked)
    if not marked or tokens < script.cache_minimum:
        return 0, 0
    entry = hashlib.blake2b(f"{model}\0{marked}".encode(), digest_size=16).digest()
    usable_from, dead_from = world.cache.get(entry, (math.inf, 0.0))
    is_read = usable_from <= now < dead_from
    # usable once the first answer has begun: requests before that write it again
    begun = usable_from if now < dead_from else now + script.latency_seconds
    world.cache[entry] = begun, now + script.latency_seconds + script.cache_seconds
    return (0, tokens) if is_read else (tokens, 0)


def blocks_of(params: dict[str, Any]) -> list[dict[str, Any]]:
    system = params.get("system") or []
    return [{"type": "text", "text": system}] if isinstance(system, str) else system


def count(script: Script, text: str) -> int:
    return math.ceil(len(text.encode()) / script.bytes_per_token)


def count_input(script: Script, params: dict[str, Any]) -> int:
    marked, plain = "", ""
    for block in blocks_of(params):
        plain += block["text"]
        if "cache_control" in block:
            marked, plain = marked + plain, ""
    plain += "".join(message["content"] for message in params["messages"])
    return count(script, marked) + count(script, plain) + TOKENS_PER_MESSAGE * len(params["messages"])


def headers_of(world: World) -> dict[str, str]:
    return {
        "request-id": world.next_id("req"),
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-requests-remaining": "3999",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:00Z",
        "anthropic-organization-id": "a-test",
    }


def error_reply(
    world: World, status: int, kind: str, message: str, headers: dict[str, str] | None = None, code: str | None = None
) -> Reply:
    error: dict[str, Any] = {"type": kind, "message": message}
    if code is not None:
        error["details"] = {"error_code": code}
    value = {"type": "error", "error": error, "request_id": world.next_id("req")}
    return json_reply(status, value, headers_of(world) | (headers or {}))


def status_reply(world: World, fault: Fault) -> Reply:
    status, kind, message = _STATUS_TYPES.get(fault.fault, (fault.status, fault.type, fault.message))
    headers = {} if fault.retry_after is None else {"retry-after": fault.retry_after}
    return error_reply(world, status, kind, message, headers, fault.code)
