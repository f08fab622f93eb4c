"""Requests and answers in the form of OpenAI's chat completions."""

from __future__ import annotations

from typing import Any

from genesis_sft.synthesis.asking.request import Answer, Fault, Request, Stop, Usage
from genesis_sft.synthesis.providers.errors import clean
from genesis_sft.synthesis.providers.tokens import joined_text, most_input_tokens, read_tokens

_STOPS: dict[str, Stop] = {"stop": "end", "length": "max_tokens", "content_filter": "refusal"}


def completion_body(request: Request, *, limit_name: str) -> dict[str, Any]:
    """Return the body of a request.

    Args:
        request: The request.
        limit_name: ``max_completion_tokens`` or ``max_tokens``, whichever the server knows.
    """
    system = "\n\n".join(text for text in (request.shared, request.system) if text)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in request.messages]
    body: dict[str, Any] = {"model": request.model, "messages": messages, limit_name: request.max_tokens}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body


def read_completion(value: dict[str, Any], request: Request, key: str | None = None) -> Answer:
    """Return the answer that a completion holds.

    Where it lacks a number of tokens, that counts as what it can be at most, so that no budget is exceeded.

    Args:
        value: The completion, as it came.
        request: What it answers.
        key: The API key, to be taken out of messages.

    Raises:
        Fault: It is no completion.
    """
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        error = value.get("error")
        said = f": {clean(str(error), key)}" if error else ""  # some servers send errors with status 200
        raise Fault("malformed", f"the answer is no chat completion{said}", maybe_paid=True)
    content, refusal, model = message.get("content"), message.get("refusal"), value.get("model")
    text = content if isinstance(content, str) else joined_text(content, "text", "text")
    stop = _STOPS.get(str(choice.get("finish_reason")), "other")
    if isinstance(refusal, str) and refusal:
        text, stop = text or refusal, "refusal"
    return Answer(
        text=text,
        reasoning=_reasoning(message),
        stop=stop,
        usage=_usage(value.get("usage"), request),
        model=model if isinstance(model, str) else request.model,
        raw=value,
    )


def _reasoning(message: dict[str, Any]) -> str | None:
    """Return what vLLM, llama.cpp and others give apart from the text, under one of two names."""
    for name in ("reasoning_content", "reasoning"):
        text = message.get(name)
        if isinstance(text, str) and text:
            return text
    return None


def _usage(usage: object, request: Request) -> Usage:
    prompt, output = read_tokens(usage, "prompt_tokens"), read_tokens(usage, "completion_tokens")
    total = read_tokens(usage, "total_tokens")
    prompt = most_input_tokens(request) if prompt is None else prompt
    if output is None:
        output = request.max_tokens
    elif total is not None:
        output = max(output, total - prompt)  # some servers leave reasoning out of completion_tokens, not of the total
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = min(read_tokens(details, "cached_tokens") or 0, prompt)
    return Usage(input=prompt - cached, cache_read=cached, output=output)
