"""The adapters, with the real SDK clients over real sockets: what comes back, what fails and how, and what leaks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Answer, Fault, Request, Usage
from genesis_sft.synthesis.price.prices import price_of
from genesis_sft.synthesis.providers import ProviderError, Unanswerable, batches, bounded_client, open_provider
from genesis_sft.synthesis.providers.address import address_of
from genesis_sft.synthesis.providers.bounded_client import Line, lines_of, without_key
from genesis_sft.synthesis.providers.chat_format import completion_body, read_completion
from genesis_sft.synthesis.providers.clients import connect_seconds
from genesis_sft.synthesis.providers.errors import LONGEST_WAIT_SECONDS, from_status, retry_after
from genesis_sft.synthesis.providers.message_format import message_body, read_message
from genesis_sft.synthesis.providers.tokens import most_input_tokens
from tests.synthesis.conftest import LoopbackServer, StartServer

Api = Literal["anthropic", "openai"]
APIS: tuple[Api, ...] = ("anthropic", "openai")
KEY = "0123456789-topsecret"
MODEL = "claude-haiku-4-5"
SHARED = "You write conversations. " * 800  # 20,000 bytes, 5,000 tokens by the server's count

both = pytest.mark.parametrize("api", APIS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def section(server: LoopbackServer, api: Api = "anthropic", **more: Any) -> ProviderSection:
    url = server.url if api == "anthropic" else server.openai_url
    return ProviderSection(**{"api": api, "model": MODEL, "base_url": url, "timeout_seconds": 20.0} | more)


def request(number: int = 0, shared: str = "Shared.", text: str = "Write something.", max_tokens: int = 800) -> Request:
    return Request(number, 0, "draft", MODEL, shared, "The rest.", (("user", f"{text} {number}"),), max_tokens)


def ask_all(of: ProviderSection, *requests: Request) -> list[Answer | Exception]:
    async def run() -> list[Answer | Exception]:
        provider = open_provider(of)
        try:
            return [await _outcome(provider.ask(each)) for each in requests]
        finally:
            await provider.close()

    return asyncio.run(run())


async def _outcome(asked: Any) -> Any:
    try:
        return await asked
    except (Fault, Unanswerable, ProviderError) as problem:
        return problem


def ask(of: ProviderSection, one: Request | None = None) -> Answer:
    (found,) = ask_all(of, one or request())
    assert isinstance(found, Answer), found
    return found


def fail(of: ProviderSection, one: Request | None = None) -> Any:
    (found,) = ask_all(of, one or request())
    assert isinstance(found, Exception), found
    return found


@both
def test_an_answer_arrives_with_its_usage_and_costs_what_was_billed(start_server: StartServer, api: Api) -> None:
    server = start_server()
    answer = ask(section(server, api))
    (entry,) = server.log()
    assert entry["key"] == request().key
    assert (answer.stop, answer.model) == ("end", MODEL)
    assert len(answer.text.split()) > 20
    assert answer.text in str(answer.raw)
    used = entry["usage"]
    usage = answer.usage
    assert [usage.input, usage.cache_write, usage.cache_read, usage.output] == [
        used["input"], used["cache_write"], used["cache_read"], used["output"]
    ]  # fmt: skip
    assert price_of(section(server)).cost(usage, batch=False) == server.billed() > 0


@both
def test_the_shared_beginning_is_read_from_the_cache(start_server: StartServer, api: Api) -> None:
    server = start_server()
    first, second = ask_all(section(server, api), request(1, SHARED), request(2, SHARED))
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert first.usage.cache_read == 0
    # Anthropic's cache takes the marked 5,000 tokens, and bills their writing; OpenAI's whole blocks, for nothing
    assert first.usage.cache_write == (5000 if api == "anthropic" else 0)
    assert second.usage.cache_read == (5000 if api == "anthropic" else 1024)
    assert second.usage.cache_write == 0
    assert second.usage.input < 5000
    price = price_of(section(server))
    assert price.cost(first.usage, batch=False) + price.cost(second.usage, batch=False) == server.billed()


def test_a_short_beginning_is_not_cached(start_server: StartServer) -> None:
    server = start_server()
    answers = ask_all(section(server), request(1), request(2))
    assert all(isinstance(each, Answer) and each.usage.cache_write == each.usage.cache_read == 0 for each in answers)


@both
@pytest.mark.parametrize("kind", ["refusal", "max_tokens"])
def test_refusals_and_cut_off_answers_are_results(start_server: StartServer, api: Api, kind: str) -> None:
    server = start_server(faults=[{"fault": kind}])
    answer = ask(section(server, api))
    assert answer.stop == kind
    assert answer.text
    assert server.billed() > 0


@both
def test_an_empty_answer_is_a_result(start_server: StartServer, api: Api) -> None:
    answer = ask(section(start_server(faults=[{"fault": "empty"}]), api))
    assert (answer.text, answer.stop, answer.usage.output) == ("", "end", 0)


FAULTS = {
    "rate_limit": "rate limit",
    "overloaded": "overloaded",
    "server_error": "server error",
    "disconnect": "connection",
    "cut_off": "cut off",
    "malformed": "malformed",
    "wrong_shape": "malformed",
    "hang": "timeout",
}


@both
@pytest.mark.parametrize(("fault", "kind"), FAULTS.items())
def test_every_failure_is_a_fault_that_owns_up_to_what_was_billed(
    start_server: StartServer, api: Api, fault: str, kind: str
) -> None:
    server = start_server(faults=[{"fault": fault, "tries": 1}])
    of = section(server, api, timeout_seconds=1.0 if fault == "hang" else 20.0)
    failed, then = ask_all(of, request(), request())
    assert isinstance(failed, Fault)
    assert failed.kind == kind
    assert failed.maybe_paid == (server.log()[0]["billed"] > 0)
    assert isinstance(then, Answer)  # the same client goes on


@both
def test_the_wait_that_the_server_asks_for_is_passed_on(start_server: StartServer, api: Api) -> None:
    server = start_server(faults=[{"fault": "rate_limit", "retry_after": "7"}])
    assert fail(section(server, api)).retry_after == 7.0


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": "-3"}) == 0.0
    assert retry_after({"retry-after": "1e99"}) == LONGEST_WAIT_SECONDS
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after": "soon"}) is None
    date = retry_after({"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)})
    assert date is not None
    assert 60 < date <= 100


@both
def test_where_no_server_listens_nothing_was_paid(api: Api) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = fail(ProviderSection(api=api, model="m", base_url=f"http://127.0.0.1:{port}"))
    assert isinstance(found, Fault)
    assert (found.kind, found.maybe_paid) == ("no connection", False)
    assert f"127.0.0.1:{port}" in str(found)


@both
def test_where_a_servers_name_is_not_known_nothing_was_paid(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = fail(ProviderSection(api=api, model="m", base_url="http://mistyped.lan:8000"))
    assert isinstance(found, Fault)
    assert (found.kind, found.maybe_paid) == ("no connection", False)
    assert "mistyped.lan:8000: " in str(found)


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port where nobody takes connections: those that the kernel keeps for whoever listens are used up."""
    with socket.socket() as listening, contextlib.ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            knocking = waiting.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@both
def test_where_no_connection_comes_about_in_time_nothing_was_paid(api: Api, full_port: int) -> None:
    """A connection gets a third of the time, 10 seconds at most: the whole of it would look like a missing answer."""
    address = f"http://127.0.0.1:{full_port}"
    found = fail(ProviderSection(api=api, model="m", base_url=address, timeout_seconds=0.6))
    assert isinstance(found, Fault)
    assert (found.kind, found.maybe_paid) == ("no connection", False)
    assert "within 0.2 s" in str(found)
    assert connect_seconds(ProviderSection(api=api, model="m", timeout_seconds=300.0)) == 10.0


@both
def test_a_wrong_key_ends_the_run_and_is_not_repeated(
    start_server: StartServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server = start_server(key="another")
    problem = fail(section(server, api, key_from="MY_KEY"))
    assert isinstance(problem, ProviderError)
    assert problem.exit_status == 2
    assert "[key]" in str(problem)  # the server quotes it
    assert KEY not in f"{problem} {problem.hint}"
    assert "MY_KEY" in str(problem.hint)


@both
def test_an_unknown_model_is_answered_with_those_that_there_are(start_server: StartServer, api: Api) -> None:
    problem = fail(section(start_server(models=["claude-haiku-4-6", "llama"]), api))
    assert isinstance(problem, ProviderError)
    assert "claude-haiku-4-6, llama" in str(problem.hint)


def test_an_address_without_v1_is_pointed_out(start_server: StartServer) -> None:
    server = start_server()
    problem = fail(section(server, "openai", base_url=f"{server.url}/wrong"))
    assert isinstance(problem, ProviderError)
    assert "mostly end in /v1" in str(problem.hint)


def test_anthropics_address_may_end_in_v1(start_server: StartServer) -> None:
    server = start_server()
    assert ask(section(server, base_url=f"{server.url}/v1/")).text


@both
def test_a_request_that_is_too_long_ends_only_itself(start_server: StartServer, api: Api) -> None:
    server = start_server(context=2000)
    long, short = ask_all(section(server, api), request(1, SHARED), request(2))
    assert isinstance(long, Unanswerable)
    assert isinstance(short, Answer)


ERRORS = [
    (400, {"type": "invalid_request_error", "message": "temperature: range: 0..1"}, ProviderError),
    (400, {"type": "invalid_request_error", "message": "Your credit balance is too low"}, ProviderError),
    (400, {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}, Unanswerable),
    (400, {"message": "exceeds the available context size", "code": "exceed_context_size_error"}, Unanswerable),
    (403, {"type": "permission_error", "message": "no access"}, ProviderError),
    (413, {"type": "request_too_large", "message": "too large"}, Unanswerable),
    (422, {"message": "temperature must not be negative"}, ProviderError),
    (307, {"message": "over there"}, ProviderError),
    (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, ProviderError),
    (502, {"message": "bad gateway"}, Fault),
    (503, {"message": "Loading model"}, Fault),
]  # fmt: skip


@both
@pytest.mark.parametrize(("status", "error", "expected"), ERRORS)
def test_what_a_refusal_of_the_server_means(
    start_server: StartServer, api: Api, status: int, error: dict[str, str], expected: type
) -> None:
    found = fail(section(start_server(faults=[{"fault": "status", "status": status} | error]), api))
    assert type(found) is expected
    assert error["message"] in str(found)


def test_a_key_is_needed_elsewhere_and_not_here(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(section(start_server())).text
    with pytest.raises(ProviderError, match=r"api\.anthropic\.com.*ANTHROPIC_API_KEY"):
        open_provider(ProviderSection())
    with pytest.raises(ProviderError, match=r"example\.com.*OPENAI_API_KEY"):
        open_provider(ProviderSection(api="openai", model="m", base_url="https://example.com/v1"))
    with pytest.raises(ProviderError, match="MY_KEY"):  # asked for by name, also here
        open_provider(section(start_server(), key_from="MY_KEY"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ProviderError, match=r"https.*unencrypted") as raised:
        open_provider(ProviderSection(api="openai", model="m", base_url="http://example.com/v1"))
    assert KEY not in str(raised.value)


def test_a_key_with_a_line_break_inside_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-one\nsk-two")
    with pytest.raises(ProviderError, match="ANTHROPIC_API_KEY") as raised:
        open_provider(ProviderSection())
    assert "sk-one" not in f"{raised.value} {raised.value.hint}"


def test_the_key_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    address = address_of(ProviderSection())
    assert address.key == KEY
    assert KEY not in f"{address!r} {address}"


@both
def test_only_the_recipe_decides_where_requests_go(
    start_server: StartServer, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trap, server = start_server(), start_server(key=KEY)
    for name in ("ANTHROPIC", "OPENAI"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
        monkeypatch.setenv(f"{name}_BASE_URL", trap.url)
        monkeypatch.setenv(f"{name}_CUSTOM_HEADERS", "x-api-key: other\nauthorization: Bearer other\nx-trap: 1")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, trap.url.replace("//", "//user:password@"))
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "other")
    monkeypatch.setenv("OPENAI_ORG_ID", "trap")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "trap")
    with caplog.at_level("DEBUG"):
        assert ask(section(server, api)).text  # the server wants the key, and that key
    assert trap.log() == []
    assert KEY not in caplog.text
    refusing = start_server(key="another")
    fail(section(refusing, api))
    (headers,) = [entry["headers"] for entry in refusing.log()]
    assert "trap" not in str(headers)
    assert "other" not in str(headers).replace("another", "")


def test_many_at_once_each_get_their_own_answer(start_server: StartServer) -> None:
    server = start_server(latency_seconds=0.05)
    requests = [request(number) for number in range(32)]
    alone = [each.text for each in ask_all(section(server), *requests[:3]) if isinstance(each, Answer)]

    async def together() -> list[Answer]:
        provider = open_provider(section(server))
        try:
            return await asyncio.gather(*map(provider.ask, requests))
        finally:
            await provider.close()

    answers = asyncio.run(together())
    assert [each.text for each in answers[:3]] == alone
    assert len({each.text for each in answers}) == 32


@pytest.mark.parametrize("bytes_per_token", [1.0, 4.0])
@both
def test_nothing_is_billed_that_was_not_reserved(start_server: StartServer, api: Api, bytes_per_token: float) -> None:
    server = start_server(bytes_per_token=bytes_per_token)
    price = price_of(section(server))
    for each in (request(1, SHARED), request(2, SHARED, max_tokens=10), request(3, "", "Grüße 你好")):
        before = server.billed()
        ask(section(server, api), each)
        assert server.billed() - before <= price.most(each, batch=False)


def test_an_answer_without_usage_counts_as_the_most_it_can_be(start_server: StartServer) -> None:
    server = start_server(faults=[{"fault": "no_usage"}])
    answer = ask(section(server, "openai"))
    price = price_of(section(server))
    assert answer.usage.output == 800
    assert server.billed() <= price.cost(answer.usage, batch=False) <= price.most(request(), batch=False)


@both
def test_a_key_that_the_server_quotes_is_in_no_answer(
    start_server: StartServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "0123456789/top+secret"
    monkeypatch.setenv("MY_KEY", key)
    answer = ask(section(start_server(key=key, faults=[{"fault": "echo_key"}]), api, key_from="MY_KEY"))
    assert key not in str(answer)
    assert answer.raw["debug"] == {"key": "[key]"}
    assert without_key(rb'{"key":"0123456789\/top+secret"}', key) == b'{"key":"[key]"}'
    assert without_key(b'{"model":"ollama"}', "ollama") == b'{"model":"ollama"}'  # a stand-in, no secret


def test_an_error_that_quotes_a_short_key_does_not_show_it() -> None:
    with pytest.raises(Fault) as raised:
        read_completion({"error": {"message": "wrong key: hunter2"}}, request(), "hunter2")
    assert "hunter2" not in str(raised.value)


@both
def test_no_more_is_read_than_an_answer_can_be(start_server: StartServer, api: Api) -> None:
    found = fail(section(start_server(faults=[{"fault": "long"}]), api))
    assert isinstance(found, Fault)
    assert (found.kind, found.maybe_paid) == ("malformed", True)
    assert "32 MiB" in str(found)


def lines(parts: Iterable[bytes], key: str | None = None) -> list[Line]:
    async def received() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def run() -> list[Line]:
        return [line async for line in lines_of(httpx2.Response(200, content=received()), key)]

    return asyncio.run(run())


@given(st.lists(st.lists(st.sampled_from([b"a", b"\n", b"\xe2\x80\xa8"]), max_size=4).map(b"".join), max_size=8))
def test_lines_are_the_same_however_they_arrive(parts: list[bytes]) -> None:
    *ended, rest = b"".join(parts).split(b"\n")
    assert lines(parts) == [*map(Line, ended), *([Line(rest, is_ended=False)] if rest else [])]


def test_lines_are_bounded_and_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines([b"a " + KEY[:5].encode(), KEY[5:].encode() + b" b\nc\n"], KEY) == [Line(b"a [key] b"), Line(b"c")]
    monkeypatch.setattr(bounded_client, "LONGEST_ANSWER_BYTES", 10)
    monkeypatch.setattr(bounded_client, "_BEGINNING_BYTES", 4)
    assert lines([b"12345", b"67890\n1234567890\n"]) == [Line(b"1234567890")] * 2
    for too_long in ([b"12345", b"678901\n", b"b"], [b"1", b"2345678901", b"234567890123\nb"]):
        assert lines(too_long) == [Line(b"1234", is_too_long=True), Line(b"b", is_ended=False)]


def test_a_line_of_any_length_takes_no_more_memory_than_the_longest_that_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_client, "LONGEST_ANSWER_BYTES", 2**20)
    tracemalloc.start()
    try:
        found = lines(itertools.chain([b"{" * 10], (bytes(2**16) for _ in range(1000)), [b"\nb\n"]))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(line.content[:10], line.is_too_long) for line in found] == [(b"{" * 10, True), (b"b", False)]
    assert most < 8 * 2**20  # of 64


@pytest.mark.parametrize("bad", ["9000", -5, True, 10**12, [], 1.5])
@pytest.mark.parametrize("name", ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"])
def test_a_number_of_input_tokens_that_is_none_counts_as_the_most_there_can_be(name: str, bad: object) -> None:
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 0, name: bad}
    message = {"type": "message", "content": [], "usage": usage}
    price = price_of(ProviderSection())
    asked = request(max_tokens=1)
    cost = price.cost(read_message(message, asked).usage, batch=False)
    assert cost == price.most(asked, batch=False)
    with pytest.raises(Fault, match="how many tokens"):
        read_message(message, None)


@pytest.mark.parametrize("name", ["completion_tokens", "prompt_tokens"])
def test_more_tokens_than_there_are_count_as_the_most_there_can_be(name: str) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 5, name: 10**10}
    found = read_completion({"choices": [{"message": {"content": "a"}}], "usage": usage}, request()).usage
    expected = (
        Usage(input=5, output=800) if name == "completion_tokens" else Usage(most_input_tokens(request()), output=5)
    )
    assert found == expected


@pytest.mark.parametrize("name", ["a\x1b[31m", "a/../b", "", "a" * 101, 7])
def test_a_batch_with_a_name_that_is_none_is_no_batch(name: object) -> None:
    value = {"id": "msgbatch_01-a", "created_at": "2026-01-01T00:00:00Z", "request_counts": {}, "processing_status": ""}
    assert batches._batch(value).id == "msgbatch_01-a"
    with pytest.raises(Fault, match="no batch"):
        batches._batch(value | {"id": name})


def test_reasoning_comes_apart_from_the_text() -> None:
    blocks = [{"type": "thinking", "thinking": "7*8=56"}, {"type": "text", "text": "5"}, {"type": "text", "text": "6"}]
    usage = {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": None}
    message = {"type": "message", "content": blocks, "stop_reason": "stop_sequence", "usage": usage}
    answer = read_message(message, request())
    assert (answer.reasoning, answer.text, answer.stop) == ("7*8=56", "56", "end")
    for name in ("reasoning_content", "reasoning"):
        choice = {"message": {"content": "56", name: "7*8=56"}, "finish_reason": "stop"}
        usage = {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "total_tokens": 15,
        }  # reasoning only in the total
        found = read_completion({"choices": [choice], "usage": usage}, request())
        assert (found.reasoning, found.text, found.usage.output) == ("7*8=56", "56", 6)


def test_a_refusal_in_words_of_its_own_field() -> None:
    choice = {"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}
    assert read_completion({"choices": [choice]}, request()).stop == "refusal"


def test_bodies_hold_what_the_request_holds_and_no_more() -> None:
    one = Request(0, 0, "draft", "m", "Shared.", "Rest.", (("user", "a"), ("assistant", "b"), ("user", "c")), 9, 0.5)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert message_body(one) == {
        "model": "m",
        "max_tokens": 9,
        "messages": turns,
        "system": [
            {"type": "text", "text": "Shared.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Rest."},
        ],
        "temperature": 0.5,
    }
    assert completion_body(one, limit_name="max_tokens") == {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "Shared.\n\nRest."}, *turns],
        "temperature": 0.5,
    }
    bare = Request(0, 0, "draft", "m", "", "", (("user", "a"),), 9)
    assert set(message_body(bare)) == {"model", "max_tokens", "messages"}
    assert completion_body(bare, limit_name="max_tokens")["messages"] == [{"role": "user", "content": "a"}]


def test_a_key_that_is_quoted_in_part_is_not_shown() -> None:
    found = from_status(401, {}, {"error": {"message": "Incorrect API key provided: sk-proj-12***wxyz. See below."}})
    assert "Incorrect API key provided: [key] See below." in str(found)


_near = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("message") | json_values,
        "content": st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": json_values}), max_size=2)
        | json_values,
        "usage": st.dictionaries(
            st.sampled_from(["input_tokens", "output_tokens", "prompt_tokens", "completion_tokens", "total_tokens"])
            | st.text(max_size=3),
            json_values,
        )
        | json_values,
        "choices": st.lists(st.fixed_dictionaries({"message": json_values, "finish_reason": json_values}), max_size=2)
        | json_values,
        "stop_reason": json_values,
        "model": json_values,
        "error": json_values,
    },
)


@given(_near)
def test_whatever_the_server_answers_it_is_an_answer_or_a_fault(value: dict[str, Any]) -> None:
    for read in (read_message, read_completion):
        found: Answer | Fault
        try:
            found = read(value, request())
        except Fault as fault:
            found = fault
        if isinstance(found, Fault):
            assert (found.kind, found.maybe_paid) == ("malformed", True)
        else:
            usage = found.usage
            counted = (usage.input, usage.cache_write, usage.cache_read, usage.output)
            assert all(0 <= each <= 2 * 10**12 for each in counted)
            assert isinstance(found.text, str)


@given(
    st.integers(300, 999),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "location"]), st.text(max_size=20)),
    json_values
    | st.fixed_dictionaries({"error": json_values})
    | st.just({"error": {"message": f"bad key {KEY}\x1b[2J"}}),
)
def test_whatever_the_server_refuses_has_a_meaning_and_shows_no_key(
    status: int, headers: dict[str, str], body: object
) -> None:
    found = from_status(status, headers, body, key=KEY)
    assert isinstance(found, Fault | Unanswerable | ProviderError)
    assert KEY not in str(found)
    assert "\x1b" not in str(found)
    if isinstance(found, Fault) and found.retry_after is not None:
        assert 0 <= found.retry_after <= LONGEST_WAIT_SECONDS
