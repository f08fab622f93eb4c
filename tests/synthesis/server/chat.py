"""POST /v1/chat/completions and GET /v1/models as OpenAI and the servers that copy it answer them."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.synthesis.server.answering import TOKENS_PER_MESSAGE, Endpoint, broken, canonical, count, key_of, shape
from tests.synthesis.server.http import Reply, Wanted, json_reply
from tests.synthesis.server.script import Fault, Script, Spent
from tests.synthesis.server.text import write_text
from tests.synthesis.server.world import World

_STATUS_TYPES = {
    "rate_limit": (429, "requests", "Rate limit reached for requests", "rate_limit_exceeded"),
    "overloaded": (503, "server_error", "The server is overloaded", None),
    "server_error": (500, "server_error", "The server had an error", None),
}
_REASONS = {"end_turn": "stop", "max_tokens": "length", "refusal": "content_filter"}
_CACHE_MINIMUM = 1024


def get_models(world: World, wanted: Wanted) -> Reply:
    refused = _check_key(world, wanted)
    if refused is not None:
        return refused
    fault = world.fault_for("models", "models", b"")
    world.write_log(n=world.num_requests, path="models", status=200, headers=wanted.headers, billed=0)
    names = world.script.models or ("a-model",)
    entries = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "a-test"} for name in names]
    return broken(json_reply(200, {"object": "list", "data": entries, "has_more": False}), fault)


def _check_key(world: World, wanted: Wanted) -> Reply | None:
    given = key_of(wanted)
    if world.script.key is None or given == world.script.key:
        return None
    world.write_log(n=world.num_requests, path="refused", status=401, headers=wanted.headers, billed=0)
    message = f"Incorrect API key provided: {given[:80]}."
    return error_reply(world, 401, "invalid_request_error", message, "invalid_api_key")


def _find_problem(script: Script, params: dict[str, Any]) -> tuple[int, str, str, str | None] | None:
    invalid = "invalid_request_error"
    if script.models and params.get("model") not in script.models:
        return 404, invalid, f"The model `{params.get('model')}` does not exist", "model_not_found"
    messages = params.get("messages")
    if not isinstance(messages, list) or not messages:
        return 400, invalid, "'messages' is too short", None
    for message in messages:
        if message.get("role") not in ("system", "user", "assistant") or not isinstance(message.get("content"), str):
            return 400, invalid, "Invalid value in 'messages'", None
    limit = _limit(params)
    if limit is not None and _count_input(script, messages) + limit > script.context:
        message = f"This model's maximum context length is {script.context} tokens."
        return 400, invalid, message, "context_length_exceeded"
    return None


def _complete(world: World, params: dict[str, Any], fault: Fault | None) -> tuple[dict[str, Any], Spent]:
    script, messages = world.script, params["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    text = write_text(canonical(params), system, messages[-1]["content"], script)
    text, stop = shape(text, _limit(params) or 10**6, fault, script)
    num_input = _count_input(script, messages)
    cached = _cached(world, params["model"], system)
    spent = Spent(num_input - cached, 0, cached, count(script, text))
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if stop == "refusal":
        message |= {"content": None, "refusal": text}
    completion: dict[str, Any] = {
        "id": world.next_id("chatcmpl"),
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": params["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _REASONS[stop]}],
        "usage": {
            "prompt_tokens": num_input,
            "completion_tokens": spent.output,
            "total_tokens": num_input + spent.output,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        },
    }
    if fault is not None and fault.fault == "no_usage":
        del completion["usage"]
    return completion, spent


def _limit(params: dict[str, Any]) -> int | None:
    return params.get("max_completion_tokens") or params.get("max_tokens")


def _count_input(script: Script, messages: list[dict[str, Any]]) -> int:
    return sum(count(script, message["content"]) + TOKENS_PER_MESSAGE for message in messages)


def _cached(world: World, model: str, system: str) -> int:
    """OpenAI's cache: nothing is paid for writing; whole blocks of the prompt's beginning are read."""
    beginning = system[: int(_CACHE_MINIMUM * world.script.bytes_per_token)]
    if count(world.script, beginning) < _CACHE_MINIMUM:
        return 0
    entry = hashlib.blake2b(f"chat\0{model}\0{beginning}".encode(), digest_size=16).digest()
    known = entry in world.cache
    world.cache[entry] = (0.0, 0.0)
    return _CACHE_MINIMUM if known else 0


def _headers(world: World) -> dict[str, str]:
    return {"x-request-id": world.next_id("req"), "x-ratelimit-remaining-requests": "4999"}


def error_reply(
    world: World, status: int, kind: str, message: str, code: str | None = None, headers: dict[str, str] | None = None
) -> Reply:
    value = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json_reply(status, value, headers)


def status_reply(world: World, fault: Fault) -> Reply:
    status, kind, message, code = _STATUS_TYPES.get(fault.fault, (fault.status, fault.type, fault.message, fault.code))
    headers = {} if fault.retry_after is None else {"retry-after": fault.retry_after}
    return error_reply(world, status, kind, message, code, headers)


ENDPOINT = Endpoint("chat", _check_key, _find_problem, error_reply, status_reply, _complete, _headers)
