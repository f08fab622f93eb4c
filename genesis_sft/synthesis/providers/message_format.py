"""Requests and answers in the form of Anthropic's Messages API."""

from __future__ import annotations

from typing import Any

import orjson

from genesis_sft.synthesis.asking.request import Answer, Fault, Request, Stop, Usage
from genesis_sft.synthesis.providers.tokens import joined_text, most_input_tokens, read_cache_tokens, read_tokens

_STOPS: dict[str, Stop] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
}


def message_body(request: Request) -> dict[str, Any]:
    """Return the body of a request; its shared beginning is marked for the prompt cache, for five minutes.

    Example:
        >>> message_body(Request(0, 0, "question", "m", "Shared.", "", (("user", "Hi"),), 9))["system"]
        [{'type': 'text', 'text': 'Shared.', 'cache_control': {'type': 'ephemeral'}}]
    """
    system: list[dict[str, Any]] = []
    if request.shared:
        system.append({"type": "text", "text": request.shared, "cache_control": {"type": "ephemeral"}})
    if request.system:
        system.append({"type": "text", "text": request.system})
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": role, "content": text} for role, text in request.messages],
    }
    if system:
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body


def batch_item(request: Request) -> bytes:
    """Return a request as an item of a batch, in JSON."""
    return orjson.dumps({"custom_id": request.key, "params": message_body(request)})


def read_message(value: dict[str, Any], request: Request | None) -> Answer:
    """Return the answer that a message holds.

    Args:
        value: The message, as it came.
        request: What it answers. Where the message lacks a number of tokens or has none that can be one, it counts
            as what it can be at most, so that no budget is exceeded: all of the input as written to the cache, the
            dearest there is. Without a request (results of a batch) the message must have them.

    Raises:
        Fault: It is no message.
    """
    content, usage = value.get("content"), value.get("usage")
    if value.get("type") != "message" or not isinstance(content, list):
        raise Fault("malformed", "the answer is no message of the Messages API", maybe_paid=True)
    num_input, num_output = read_tokens(usage, "input_tokens"), read_tokens(usage, "output_tokens")
    write = read_cache_tokens(usage, "cache_creation_input_tokens")
    read = read_cache_tokens(usage, "cache_read_input_tokens")
    if request is not None:
        if num_input is None or write is None or read is None:
            num_input, write, read = 0, most_input_tokens(request), 0
        num_output = request.max_tokens if num_output is None else num_output
    if num_input is None or write is None or read is None or num_output is None:
        raise Fault("malformed", "the answer does not say how many tokens it took", maybe_paid=True)
    model = value.get("model")
    return Answer(
        text=joined_text(content, "text", "text"),
        reasoning=joined_text(content, "thinking", "thinking") or None,
        stop=_STOPS.get(str(value.get("stop_reason")), "other"),
        usage=Usage(input=num_input, cache_write=write, cache_read=read, output=num_output),
        model=model if isinstance(model, str) else "" if request is None else request.model,
        raw=value,
    )
