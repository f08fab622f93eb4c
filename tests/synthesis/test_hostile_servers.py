"""Servers that quote the key where nobody expects it, send requests on, or send more than any answer is."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
import orjson
import pytest

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Fault, Request
from genesis_sft.synthesis.providers import ProviderError, bounded_client, open_batches, open_provider
from genesis_sft.synthesis.providers.address import address_of
from genesis_sft.synthesis.providers.clients import fault_of

KEY = "0123456789-topsecret"
SHORT_KEY = "hunter2"  # too short to be taken out of answers: of messages it is
REQUEST = Request(0, 0, "draft", "m", "", "", (("user", "Write."),), 100)
MESSAGE = {
    "type": "message",
    "content": [{"type": "text", "text": f"Your key is {KEY}."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "output_tokens": 5},
    "model": "m",
}

T = TypeVar("T")


@dataclass
class Server:
    """Answers every request on a connection of its own: with the first reply, the second ..., the last for good."""

    replies: tuple[bytes, ...]
    asked: list[bytes] = field(default_factory=list)
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        self.asked.append(head)
        writer.write(self.replies[min(len(self.asked), len(self.replies)) - 1])
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(*replies: bytes) -> AsyncIterator[Server]:
    server = Server(replies)
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield server


def reply(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "connection: close", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def section_of(url: str) -> ProviderSection:
    return ProviderSection(model="m", base_url=url, key_from="MY_KEY", timeout_seconds=20.0)


async def outcome(asking: Awaitable[T]) -> Any:
    try:
        return await asking
    except (Fault, ProviderError) as problem:
        return problem


async def ask(url: str) -> Any:
    provider = open_provider(section_of(url))
    try:
        return await outcome(provider.ask(REQUEST))
    finally:
        await provider.close()


async def results(url: str) -> Any:
    batches = open_batches(section_of(url))

    async def collect() -> list[Any]:
        return [result async for _, result in batches.results("msgbatch_1")]

    try:
        return await outcome(collect())
    finally:
        await batches.close()


def run(asking: Callable[[str], Awaitable[Any]], *replies: bytes) -> Any:
    async def main() -> Any:
        async with serving(*replies) as server:
            return await asking(server.url)

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_requests_and_keys_are_not_sent_on(status: str) -> None:
    async def main() -> tuple[Any, list[bytes]]:
        async with serving(reply(orjson.dumps(MESSAGE))) as trap:
            elsewhere = reply(b"", status, location=f"{trap.url}/v1/messages?key={KEY}", **{"content-length": "0"})
            async with serving(elsewhere) as server:
                return await ask(server.url), trap.asked

    problem, asked_elsewhere = asyncio.run(main())
    assert isinstance(problem, ProviderError)
    assert asked_elsewhere == []
    assert "sends requests on to http://127.0.0.1" in str(problem.hint)
    assert KEY not in f"{problem} {problem.hint}"


@pytest.mark.parametrize("how", ["with its length", "without", "packed"])
def test_more_than_an_answer_can_be_is_not_read(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = orjson.dumps(MESSAGE)
    monkeypatch.setattr(bounded_client, "LONGEST_ANSWER_BYTES", len(fits))

    def told(body: bytes) -> bytes:
        packed = gzip.compress(body) if how == "packed" else body
        headers = {"content-encoding": "gzip"} if how == "packed" else {}
        return reply(packed, **headers, **({} if how == "without" else {"content-length": str(len(packed))}))

    assert run(ask, told(fits)).text == "Your key is [key]."
    found = run(ask, told(fits + b" "))
    assert isinstance(found, Fault)
    assert (found.kind, found.maybe_paid) == ("malformed", True)
    assert "longer than" in str(found)


@pytest.mark.parametrize("ended", [True, False])
def test_results_are_without_the_key(ended: bool) -> None:
    line = orjson.dumps({"custom_id": "a", "result": {"type": "succeeded", "message": MESSAGE}})
    found = run(results, reply(line + b"\n" * ended))
    assert "Your key is [key]." in str(found)
    assert KEY not in str(found)


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "a", "result": {"type": "errored", "error": {"type": "api_error", "message": SHORT_KEY}}},
        {"custom_id": "a", "result": {"type": "errored", "error": {"type": "billing_error", "message": SHORT_KEY}}},
        f"no JSON, but {SHORT_KEY}",
    ],
)
def test_what_results_say_of_a_failure_is_without_the_key(line: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SHORT_KEY)
    found = run(results, reply((line.encode() if isinstance(line, str) else orjson.dumps(line)) + b"\n"))
    assert "[key]" in str(found)
    assert SHORT_KEY not in str(found)


def line_of(key: str) -> bytes:
    return orjson.dumps({"custom_id": key, "result": {"type": "succeeded", "message": MESSAGE}}) + b"\n"


@pytest.mark.parametrize(
    "page",
    [
        b"<upstream warning>\n" + line_of("a") + line_of("b"),
        line_of("a") + b"<upstream warning>\n" + line_of("b"),
        line_of("a") + b"null\n" + line_of("b"),
        line_of("a") + b'{"result": {"type": , "custom_id": "c"}\n' + line_of("b"),
        line_of("a") + b'{"result": {"type": "succeeded"}, "custom_id": 7}\n' + line_of("b"),
        b"\xef\xbb\xbf" + line_of("a") + line_of("b"),
    ],
    ids=["before", "between", "null", "no key in front", "a number for a key", "byte order mark"],
)
def test_a_line_of_results_that_is_nobodys_keeps_none_of_the_others_back(page: bytes) -> None:
    assert [found.text for found in run(results, reply(page))] == ["Your key is [key]."] * 2


@pytest.mark.parametrize("page", [b"<html>Sign in to this network</html>", b"<html>\nSign in\n</html>\n", b"null\n"])
def test_a_page_that_is_none_of_results_is_a_fault(page: bytes) -> None:
    found = run(results, reply(page))
    assert isinstance(found, Fault)
    assert "a line of the results is none: " + page.split(b"\n")[0].decode() in str(found)


def test_a_line_that_is_too_long_and_has_no_end_is_a_download_that_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_client, "LONGEST_ANSWER_BYTES", 1000)
    long = line_of("b").strip() + b" " * 1001
    assert str(run(results, reply(line_of("a") + long))) == "the results broke off within a line"
    ended = run(results, reply(line_of("a") + long + b"\n"))
    assert isinstance(ended[1], Fault)


@pytest.mark.parametrize("asking", [ask, results])
def test_an_error_is_told_in_the_words_of_the_server_without_the_key(
    asking: Callable[[str], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (KEY, SHORT_KEY):
        monkeypatch.setenv("MY_KEY", key)
        body = orjson.dumps({"type": "error", "error": {"type": "api_error", "message": f"overheated by {key}"}})
        found = run(asking, reply(body, "500 Internal Server Error"))
        assert isinstance(found, Fault)
        assert "overheated by [key]" in str(found)


@pytest.mark.parametrize("asking", [ask, results])
def test_of_an_error_too_no_more_is_read_than_an_answer_can_be(
    asking: Callable[[str], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_client, "LONGEST_ANSWER_BYTES", 1000)
    found = run(asking, reply(b" " * 1001, "500 Internal Server Error"))
    assert isinstance(found, Fault)
    assert "longer than" in str(found)


def test_names_of_models_are_told_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SHORT_KEY)
    error = orjson.dumps({"type": "error", "error": {"type": "not_found_error", "message": "no such model"}})
    models = orjson.dumps({"data": [{"id": f"model-of-{SHORT_KEY}"}]})
    problem = run(ask, reply(error, "404 Not Found"), reply(models))
    assert isinstance(problem, ProviderError)
    assert "model-of-[key]" in str(problem.hint)


def test_what_the_connection_says_is_told_without_the_key() -> None:
    section = section_of("http://127.0.0.1:1")
    for error in (httpx2.ConnectError, httpx2.ReadError, httpx2.DecodingError):
        assert KEY not in str(fault_of(error(f"refused for {KEY}"), section, address_of(section)))
