"""An HTTP client that reads no more than an answer can be, and takes the key out of what a server sends back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

LONGEST_ANSWER_BYTES = 32 * 2**20
"""Longest body of an answer, and longest line of a batch's results, unpacked."""

_BEGINNING_BYTES = 1000
_SHORTEST_SECRET = 12  # shorter ones are stand-ins, as "ollama": taking them out would damage answers


class TooLong(httpx2.DecodingError):
    """A body is longer than any answer is."""

    def __init__(self) -> None:
        super().__init__(f"it is longer than {LONGEST_ANSWER_BYTES // 2**20} MiB")


class BoundedClient(httpx2.AsyncClient):
    """Reads bodies up to `LONGEST_ANSWER_BYTES`; a stream is left to whoever asked for it, unless it is an error's.

    Args:
        key: The API key; a server that quotes it would have it written into the store.
        more: As for ``httpx2.AsyncClient``.
    """

    def __init__(self, *, key: str | None, **more: Any) -> None:
        super().__init__(**more)
        self._key = key

    async def send(self, request: httpx2.Request, *, stream: bool = False, **more: Any) -> httpx2.Response:
        """Send a request; see ``httpx2.AsyncClient.send``.

        Raises:
            TooLong: The body of the response is.
        """
        response = await super().send(request, stream=True, **more)
        if stream and response.is_success:
            return response
        try:
            content = await (response.aread() if _is_short(response) else _read(response))
        except BaseException:
            await response.aclose()
            raise
        cleaned = without_key(content, self._key)
        if cleaned is content and _is_short(response):
            return response
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_BODY]
        return httpx2.Response(response.status_code, headers=headers, content=cleaned, request=request)


def without_key(content: bytes, key: str | None) -> bytes:
    """Return a body without the key, also where JSON's escapes are in it; the same object where it was not there."""
    if key is None or len(key) < _SHORTEST_SECRET:
        return content
    quoted = orjson.dumps(key)[1:-1]
    for spelling in {key.encode(), quoted, quoted.replace(b"/", b"\\/")}:
        if spelling in content:
            content = content.replace(spelling, b"[key]")
    return content


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a stream.

    Attributes:
        content: The line, without the byte that ends it; of one that is too long, how it begins.
        is_ended: Whether that byte came; without it, the stream may have broken off.
        is_too_long: Whether it is longer than `LONGEST_ANSWER_BYTES`.
    """

    content: bytes
    is_ended: bool = True
    is_too_long: bool = False


async def lines_of(response: httpx2.Response, key: str | None) -> AsyncIterator[Line]:
    """Yield the lines of a stream as they arrive, without the key, holding no more than the longest of them."""
    parts: list[bytes] = []
    length = 0
    # not aiter_lines: JSON may hold U+2028 and the like, which it takes for ends of lines
    async with contextlib.aclosing(response.aiter_bytes()) as received:
        async for several in received:
            for place, part in enumerate(several.split(b"\n")):
                if place:
                    content = without_key(b"".join(parts), key)
                    yield Line(content, is_too_long=length > LONGEST_ANSWER_BYTES)
                    parts, length = [], 0
                parts.append(part)
                length += len(part)
                if length > LONGEST_ANSWER_BYTES:
                    parts = [b"".join(parts)[:_BEGINNING_BYTES]]
    if length:
        content = without_key(b"".join(parts), key)
        yield Line(content, is_ended=False, is_too_long=length > LONGEST_ANSWER_BYTES)


_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


def _is_short(response: httpx2.Response) -> bool:
    """Whether a response says that it is short enough, and is not packed: most are, and need no second look."""
    length = response.headers.get("content-length", "")
    return "content-encoding" not in response.headers and length.isdecimal() and int(length) <= LONGEST_ANSWER_BYTES


async def _read(response: httpx2.Response) -> bytes:
    parts, length = [], 0
    async with contextlib.aclosing(response.aiter_bytes()) as received:
        async for part in received:
            length += len(part)
            if length > LONGEST_ANSWER_BYTES:
                raise TooLong
            parts.append(part)
    return b"".join(parts)
