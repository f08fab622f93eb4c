"""POST /v1/messages as Anthropic answers it: errors and their headers, prompt cache, usage."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

from tests.synthesis.server.answering import TOKENS_PER_MESSAGE, Endpoint, canonical, count, key_of, shape
from tests.synthesis.server.http import Reply, Wanted, json_reply
from tests.synthesis.server.script import Fault, Script, Spent
from tests.synthesis.server.text import write_text
from tests.synthesis.server.world import World

_STATUS_TYPES = {
    "rate_limit": (429, "rate_limit_error", "This request would exceed your account's rate limit."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "server_error": (500, "api_error", "Internal server error"),
}


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
    world: World, status: int, kind: str, message: str, code: str | None = None, headers: dict[str, str] | None = None
) -> Reply:
    error: dict[str, Any] = {"type": kind, "message": message}
    if code is not None:
        error["details"] = {"error_code": code}
    value = {"type": "error", "error": error, "request_id": world.next_id("req")}
    return json_reply(status, value, headers_of(world) | (headers or {}))


def status_reply(world: World, fault: Fault) -> Reply:
    status, kind, message = _STATUS_TYPES.get(fault.fault, (fault.status, fault.type, fault.message))
    headers = {} if fault.retry_after is None else {"retry-after": fault.retry_after}
    return error_reply(world, status, kind, message, fault.code, headers)


ENDPOINT = Endpoint("messages", check_headers, find_problem, error_reply, status_reply, complete, headers_of)
