"""Tokens that a request can have at most, and those that a response says it took, which may be no numbers at all."""

from __future__ import annotations

from collections.abc import Mapping

from genesis_sft.synthesis.asking.request import Request

# what chat templates put around the text: some begin with a system prompt of their own
_TOKENS_PER_REQUEST = 128
_TOKENS_PER_MESSAGE = 16
_MOST = 10**9  # no request has more; what is above it would overflow the sums of costs


def most_input_tokens(request: Request) -> int:
    """Return an upper bound of a request's input, in tokens: its bytes, and what a chat template adds."""
    return request.num_bytes + _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * (len(request.messages) + 1)


def read_tokens(usage: object, name: str) -> int | None:
    """Return a number of tokens, or ``None`` where it is missing or no such number.

    Args:
        usage: What the response says about its usage; anything at all.
        name: The number's name, e.g. ``"output_tokens"``.
    """
    value = usage.get(name) if isinstance(usage, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        return None
    return value


def read_cache_tokens(usage: object, name: str) -> int | None:
    """Return a number of tokens that a provider without such a cache leaves out: 0 then; else as `read_tokens`."""
    if not isinstance(usage, Mapping) or usage.get(name) is None:
        return 0
    return read_tokens(usage, name)


def joined_text(parts: object, kind: str, name: str) -> str:
    """Return the text of those blocks of a content that are of a kind."""
    if not isinstance(parts, list):
        return ""
    texts = [part.get(name) for part in parts if isinstance(part, Mapping) and part.get("type") == kind]
    return "".join(text for text in texts if isinstance(text, str))
