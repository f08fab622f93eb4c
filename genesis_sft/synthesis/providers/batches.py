"""Anthropic's Message Batches: many requests at half the price, answered within a day, in any order."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Container, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import orjson

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Answer, Fault, Request
from genesis_sft.synthesis.providers.address import address_of
from genesis_sft.synthesis.providers.bounded_client import LONGEST_ANSWER_BYTES, Line
from genesis_sft.synthesis.providers.clients import open_anthropic
from genesis_sft.synthesis.providers.errors import ProviderError, Unanswerable, clean
from genesis_sft.synthesis.providers.link import Link
from genesis_sft.synthesis.providers.message_format import batch_item, read_message
from genesis_sft.synthesis.providers.protocols import Batch
from genesis_sft.synthesis.providers.tokens import read_tokens

_PATH = "/v1/messages/batches"
_PAGE = 100
_BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")  # it stands in addresses and on the terminal
# at a line's beginning only: further on, it may be of the answer
_KEY_OF_LINE = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*"([A-Za-z0-9_-]{1,64})"\s*,')
_ONLY_THIS_REQUEST = ("invalid_request_error", "request_too_large")
_NO_REQUEST = ("authentication_error", "permission_error", "billing_error", "not_found_error")
_REFUSED_HINT = "Nothing was paid for them. Set right what the provider names; the same command then asks them."


class AnthropicBatches:
    """See `genesis_sft.synthesis.providers.protocols.Batches`.

    Raises:
        ProviderError: See `address_of`.
    """

    def __init__(self, section: ProviderSection) -> None:
        address = address_of(section)
        self._link = Link(open_anthropic(section, address), section, address, models_path="/v1/models")
        self._key = address.key

    async def create(self, requests: Sequence[Request]) -> Batch:
        """Hand in requests; see `Batches.create`."""
        body = b'{"requests":[' + b",".join(map(batch_item, requests)) + b"]}"
        return _batch(await self._link.post(_PATH, body, limited=False))

    async def poll(self, id: str) -> Batch:
        """Return how far a batch is."""
        return _batch(await self._link.get(f"{_PATH}/{quote(id, safe='')}"))

    async def results(self, id: str) -> AsyncIterator[tuple[str, Answer | Fault | Unanswerable | ProviderError]]:
        """Yield keys and what came of them; see `Batches.results`.

        The address is made from the batch's id: the ``results_url`` in the provider's answer could lead, with the key,
        anywhere.
        """
        first_unread: Line | None = None
        is_first, any_read = True, False
        async for line in self._link.lines(f"{_PATH}/{quote(id, safe='')}/results"):
            if is_first:
                line, is_first = replace(line, content=line.content.removeprefix(BOM_UTF8)), False
            if not line.content.strip():
                continue
            if (result := self._result(line)) is not None:
                any_read = True
                yield result
            elif first_unread is None:
                first_unread = line
        if first_unread is not None and not any_read:
            raise self._none_of_results(first_unread)

    async def recent(self, back: timedelta, known: Container[str] = ()) -> list[Batch]:
        """Return the newest batches, newest first; see `Batches.recent`."""
        found: list[Batch] = []
        after: str | None = None
        since: datetime | None = None
        while True:
            params: dict[str, str | int] = {"limit": _PAGE} | ({} if after is None else {"after_id": after})
            page = await self._link.get(_PATH, params)
            entries = page.get("data")
            if not isinstance(entries, list):
                raise Fault("malformed", "the list of batches is no list")
            batches = [_batch(entry) for entry in entries]
            for batch in batches:
                if since is None:
                    since = batch.created_at - back
                if batch.created_at < since or batch.id in known:
                    return found
                found.append(batch)
            if not batches or page.get("has_more") is not True:
                return found
            if batches[-1].id == after:
                raise Fault("malformed", "the list of batches repeats itself")
            after = batches[-1].id

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def _result(self, line: Line) -> tuple[str, Answer | Fault | Unanswerable | ProviderError] | None:
        """Return a line of results: ``{"custom_id": ..., "result": {"type": "succeeded", "message": {...}}}``.

        One that cannot be read costs its own request only; ``None`` where nobody knows which one that is.

        Raises:
            Fault: The stream broke off.
        """
        if line.is_too_long and not line.is_ended:
            raise Fault("cut off", "the results broke off within a line")
        if line.is_too_long:
            return _unread(line, f"its result is longer than {LONGEST_ANSWER_BYTES // 2**20} MiB")
        try:
            value = orjson.loads(line.content)
            key, result = value["custom_id"], value["result"]
            kind = result["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            if line.is_ended:
                return _unread(line, "its result is none of the Message Batches API")
            raise self._none_of_results(line) from None
        if not isinstance(key, str):
            return None
        if kind == "succeeded":
            try:
                message = result.get("message")
                return key, read_message(message if isinstance(message, dict) else {}, None)
            except Fault as fault:
                return key, fault
        if kind in ("expired", "canceled"):
            return key, Fault("expired", f"the batch ended before the request was processed ({kind})")
        return key, self._failure(result.get("error"))

    def _none_of_results(self, line: Line) -> Fault:
        beginning = clean(line.content[:80].decode(errors="replace"), self._key)
        return Fault("malformed", f"a line of the results is none: {beginning}")

    def _failure(self, error: Any) -> Fault | Unanswerable | ProviderError:
        inner = error.get("error", error) if isinstance(error, dict) else {}
        inner = inner if isinstance(inner, dict) else {}
        kind = str(inner.get("type"))
        message = clean(f"{inner.get('message') or 'no message'} ({kind})", self._key)
        if kind in _ONLY_THIS_REQUEST:
            return Unanswerable(message)
        if kind in _NO_REQUEST:
            return ProviderError(f"the provider refuses requests: {message}", hint=_REFUSED_HINT)
        return Fault("overloaded" if kind in ("overloaded_error", "rate_limit_error") else "server error", message)


def _unread(line: Line, why: str) -> tuple[str, Fault] | None:
    found = _KEY_OF_LINE.match(line.content)
    return None if found is None else (found[1].decode(), Fault("malformed", why, maybe_paid=True))


def _batch(value: Any) -> Batch:
    try:
        counts = value["request_counts"]
        waiting, succeeded = read_tokens(counts, "processing") or 0, read_tokens(counts, "succeeded") or 0
        failed = sum(read_tokens(counts, name) or 0 for name in ("errored", "canceled", "expired"))
        created_at = datetime.fromisoformat(value["created_at"])
        if created_at.tzinfo is None or not _BATCH_ID.fullmatch(value["id"]):
            raise ValueError
        ended = value["processing_status"] == "ended"
    except (KeyError, TypeError, ValueError):
        raise Fault("malformed", "the answer is no batch of the Message Batches API", maybe_paid=True) from None
    return Batch(value["id"], created_at, waiting + succeeded + failed, ended, waiting, succeeded, failed)
