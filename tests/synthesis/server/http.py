"""HTTP/1.1 with keep-alive, as much as the clients of two SDKs need, and the ways in which it can break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Break = Literal["hang", "disconnect", "cut_off"]
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Wanted:
    """A request: header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """A response, and how it breaks, if it does."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    broken: Break | None = None
    delay: float = 0.0
    content_type: str = "application/json"


def json_reply(status: int, value: Any, headers: dict[str, str] | None = None, **more: Any) -> Reply:
    return Reply(status, orjson.dumps(value), headers or {}, **more)


class Connection(asyncio.Protocol):
    """One connection of a client; requests come one after the other."""

    def __init__(self, answer: Callable[[Wanted], Reply], load: Any) -> None:
        self._answer, self._load = answer, load
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._waiting = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._load.under_way -= self._waiting
        self._waiting = 0

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (wanted := self._take()) is not None:
            self._waiting += 1
            self._load.under_way += 1
            reply = self._answer(wanted)
            if reply.delay:
                asyncio.get_running_loop().call_later(reply.delay, self._send, reply)
            else:
                self._send(reply)

    def _take(self) -> Wanted | None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        if len(self._received) < end + 4 + length:
            return None
        body = bytes(self._received[end + 4 : end + 4 + length])
        del self._received[: end + 4 + length]
        method, target, _ = first.split(" ")
        return Wanted(method, target, headers, body)

    def _send(self, reply: Reply) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if reply.broken == "hang":
            return  # until the client gives up; it counts as under way until then
        self._waiting -= 1
        self._load.under_way -= 1
        if reply.broken == "disconnect":
            self._transport.abort()
            return
        head = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Status')}"]
        head += [f"content-type: {reply.content_type}", f"content-length: {len(reply.body)}"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        start = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        if reply.broken == "cut_off":
            self._transport.write(start + reply.body[: len(reply.body) // 2])
            self._transport.close()
        else:
            self._transport.write(start + reply.body)
