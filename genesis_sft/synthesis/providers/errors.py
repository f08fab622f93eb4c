"""What can go wrong between us and a provider, and what each failure means for the run."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from genesis_sft.console import visible
from genesis_sft.errors import InputError
from genesis_sft.synthesis.asking.request import Fault

LONGEST_WAIT_SECONDS = 3600.0
"""A provider that asks for a longer pause is asked again after this."""

_LONGEST_MESSAGE = 500

# the provider's words where only this request is too long, or its text is not let through
_ONLY_THIS_REQUEST = re.compile(
    r"prompt is too long|input is too long|exceed(?:s|ed)? (?:the )?(?:model's |maximum |available )*context"
    r"|maximum context length|context[ _]length|context[ _]window|exceed_context_size|content filter|content_filter"
    r"|content_policy|content policy|invalid_prompt|responsible ai",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(r"insufficient_quota|current quota|credit balance|billing", re.IGNORECASE)


class ProviderError(InputError):
    """No request can be answered before the user sets something right: key, model, address, credit, settings.

    Args:
        message: What the provider said.
        hint: What to do.
        is_not_found: Whether the server knows no such model or address, or has it no more.
    """

    def __init__(self, message: str, *, hint: str | None = None, is_not_found: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.is_not_found = is_not_found


class Unanswerable(Exception):
    """This request will never be answered: too long for the model, or not let through. Others may be.

    Args:
        reason: One line for the user; never holds a key.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def from_status(
    status: int, headers: Mapping[str, str], body: object, *, key: str | None = None
) -> Fault | Unanswerable | ProviderError:
    """Return what a response that is no success means.

    Args:
        status: Of HTTP.
        headers: Of the response.
        body: What came, as values of JSON, or as text.
        key: The API key, to be taken out of the provider's message.
    """
    kind, text = _error_of(body)
    message = clean(f"{text or 'no message'} (status {status}{f', {kind}' if kind else ''})", key)
    wait = retry_after(headers)
    if status == 429 and not _NO_CREDIT.search(f"{kind} {text}"):
        return Fault("rate limit", message, retry_after=wait)
    if status in (503, 529) or kind == "overloaded_error":
        return Fault("overloaded", message, retry_after=wait)
    if status in (408, 504, 522, 524) or kind == "timeout_error":
        # whoever waited gave up; the model may have answered all the same
        return Fault("timeout", message, retry_after=wait, maybe_paid=True)
    if status in (409, 425) or (status >= 500 and status != 501):
        # a proxy in between (502, 52x) cannot tell whether the model had answered
        return Fault("server error", message, retry_after=wait, maybe_paid=status == 502 or status > 504)
    if status == 413 or (status in (400, 422) and _ONLY_THIS_REQUEST.search(f"{kind} {text}")):
        return Unanswerable(message)
    return ProviderError(f"the provider refuses requests: {message}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait, from ``retry-after-ms`` or ``retry-after`` (RFC 9110, 10.2.3).

    Example:
        >>> retry_after({"retry-after": "7"})
        7.0
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, OverflowError, TypeError):
                continue
        if not math.isnan(seconds):
            return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)
    return None


def clean(text: str, key: str | None) -> str:
    """Return text from outside as one line of a message: without the key, without control characters, not long."""
    if key:
        text = text.replace(key, "[key]")
    # providers quote a key's beginning and end: "sk-abc***xyz"
    text = re.sub(r"\b(?:sk|key)-[\w*.\-]{6,}", "[key]", text)
    text = visible(" ".join(text.split()))
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _error_of(body: object) -> tuple[str, str]:
    """Return kind and message of an error: Anthropic's, OpenAI's, FastAPI's ``detail``, or plain text."""
    if not isinstance(body, Mapping):
        return "", body if isinstance(body, str) else ""
    error: Any = body.get("error", body)
    if isinstance(error, Mapping):
        kind = next((str(error[name]) for name in ("code", "type") if isinstance(error.get(name), str)), "")
        text = next((error[name] for name in ("message", "detail", "error") if error.get(name)), "")
        return kind, text if isinstance(text, str) else str(text)
    return "", str(error)
