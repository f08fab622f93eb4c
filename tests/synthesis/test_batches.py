"""Message Batches over a real socket: created, polled, fetched in any order, broken off, found again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Answer, Fault, Request
from genesis_sft.synthesis.price.prices import price_of
from genesis_sft.synthesis.providers import (
    Batch,
    Batches,
    ProviderError,
    Unanswerable,
    batch_item_bytes,
    open_batches,
    open_provider,
)
from genesis_sft.synthesis.providers import batches as adapter
from genesis_sft.synthesis.providers.bounded_client import Line
from genesis_sft.synthesis.providers.message_format import batch_item
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.records import Totals
from genesis_sft.synthesis.writing import batch_waiting, pace
from genesis_sft.synthesis.writing.write_batches import write_batches
from genesis_sft.synthesis.writing.written import Written
from tests.synthesis.conftest import LoopbackServer, StartServer
from tests.synthesis.writing import FlatPrice, scenario, work_of

MODEL = "claude-haiku-4-5"
LONG = timedelta(days=1)
T = TypeVar("T")


def section(server: LoopbackServer) -> ProviderSection:
    return ProviderSection(model=MODEL, base_url=server.url, batches=True, timeout_seconds=20.0)


def requests(count: int) -> list[Request]:
    return [Request(n, 0, "draft", MODEL, "Shared.", "", (("user", f"Say {n}."),), 500) for n in range(count)]


def run(server: LoopbackServer, work: Callable[[Batches], Awaitable[T]]) -> T:
    async def main() -> T:
        batches = open_batches(section(server))
        try:
            return await work(batches)
        finally:
            await batches.close()

    return asyncio.run(main())


async def finish(batches: Batches, asked: list[Request]) -> tuple[Batch, list[tuple[str, Any]]]:
    batch = await batches.create(asked)
    while not batch.ended:
        batch = await batches.poll(batch.id)
    return batch, [found async for found in batches.results(batch.id)]


def test_a_batch_answers_every_request_at_half_the_price_and_as_it_would_alone(start_server: StartServer) -> None:
    server, asked = start_server(), requests(30)
    batch, found = run(server, lambda batches: finish(batches, asked))
    assert (batch.count, batch.succeeded, batch.failed, batch.waiting) == (30, 30, 0, 0)
    answers = dict(found)
    assert [key for key, _ in found] != [each.key for each in asked]  # in any order
    assert set(answers) == {each.key for each in asked}
    price = price_of(section(server))
    assert sum(price.cost(each.usage, batch=True) for each in answers.values()) >= server.billed() > 0
    assert sum(price.cost(each.usage, batch=True) - 1 for each in answers.values()) <= server.billed()

    async def alone() -> Answer:
        provider = open_provider(section(server))
        try:
            return await provider.ask(asked[7])
        finally:
            await provider.close()

    assert asyncio.run(alone()).text == answers[asked[7].key].text


def test_items_that_fail_say_whether_asking_again_may_help(start_server: StartServer) -> None:
    server = start_server(batches={"expired": 0.2, "errored": 0.2, "invalid": 0.2}, seed=3)
    batch, found = run(server, lambda batches: finish(batches, requests(60)))
    planned = {entry["key"]: entry.get("fault") for entry in server.log() if entry["path"] == "item"}
    assert set(planned.values()) == {None, "expired", "api_error", "invalid"}
    for key, result in found:
        if planned[key] is None:
            assert isinstance(result, Answer)
        elif planned[key] == "invalid":
            assert isinstance(result, Unanswerable)
        else:
            assert isinstance(result, Fault)
            assert result.kind == ("expired" if planned[key] == "expired" else "server error")
            assert not result.maybe_paid
    assert (batch.succeeded, batch.failed) == (
        sum(fault is None for fault in planned.values()),
        sum(fault is not None for fault in planned.values()),
    )


def test_a_download_that_breaks_off_is_a_fault_and_can_be_begun_again(start_server: StartServer) -> None:
    server, asked = start_server(batches={"break_results": 1}), requests(40)

    async def work(batches: Batches) -> tuple[list[str], list[str]]:
        batch = await batches.create(asked)
        while not (await batches.poll(batch.id)).ended:
            pass
        first: list[str] = []

        async def download() -> None:
            async for key, _ in batches.results(batch.id):
                first.append(key)

        with pytest.raises(Fault) as raised:
            await download()
        assert raised.value.kind == "cut off"
        return first, [key async for key, _ in batches.results(batch.id)]

    first, second = run(server, work)
    assert 0 < len(first) < 40
    assert first == second[: len(first)]
    assert set(second) == {each.key for each in asked}


@pytest.mark.parametrize(("fault", "exists"), [("disconnect", True), ("cut_off", True), ("rate_limit", False)])
def test_a_batch_whose_creation_went_wrong_is_found_again_where_it_exists(
    start_server: StartServer, fault: str, exists: bool
) -> None:
    server = start_server(faults=[{"fault": fault, "path": "create", "at_most": 1}])

    async def work(batches: Batches) -> list[Batch]:
        with pytest.raises(Fault) as raised:
            await batches.create(requests(3))
        assert raised.value.maybe_paid == exists
        return await batches.recent(LONG)

    assert [batch.count for batch in run(server, work)] == ([3] if exists else [])


def test_recent_batches_come_page_by_page_newest_first(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "_PAGE", 2)
    server = start_server()

    async def work(batches: Batches) -> tuple[list[str], list[Batch], list[Batch], list[Batch]]:
        made = [await batches.create(requests(count)) for count in (1, 2, 3, 4, 5)]
        return (
            [batch.id for batch in made],
            await batches.recent(LONG),
            await batches.recent(made[4].created_at - made[3].created_at),
            await batches.recent(LONG, {made[1].id, made[2].id}),
        )

    made, every, last, unknown = run(server, work)
    assert [batch.id for batch in every] == made[::-1]
    assert [batch.id for batch in last] == made[:2:-1]
    assert [batch.id for batch in unknown] == made[:2:-1]


def test_items_of_a_model_that_the_account_lacks_are_refused_one_by_one(start_server: StartServer) -> None:
    server, asked = start_server(models=["another"]), requests(3)
    _, found = run(server, lambda batches: finish(batches, asked))
    assert {key for key, _ in found} == {each.key for each in asked}
    for _, result in found:
        assert isinstance(result, ProviderError)
        assert f"model: {MODEL} (not_found_error)" in str(result)
    assert server.billed() == 0


def test_a_batch_that_nobody_knows_ends_the_run(start_server: StartServer) -> None:
    with pytest.raises(ProviderError, match="no batch msgbatch_none"):
        run(start_server(), lambda batches: batches.poll("msgbatch_none"))


def test_the_size_of_an_item_is_what_it_adds_to_the_body(start_server: StartServer) -> None:
    asked = requests(5)
    items = orjson.loads(b"[" + b",".join(map(batch_item, asked)) + b"]")
    assert [item["custom_id"] for item in items] == [each.key for each in asked]
    body = len(b'{"requests":[' + b",".join(map(batch_item, asked)) + b"]}")
    assert sum(map(batch_item_bytes, asked)) + len(b'{"requests":[]}') - 1 == body


_kinds = st.sampled_from(["succeeded", "errored", "expired", "canceled", "other"])
_values = (
    st.none()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5))
)
_errors = st.fixed_dictionaries(
    {"type": st.text(max_size=5), "error": st.fixed_dictionaries({"type": _values}) | _values}
)
_lines = st.fixed_dictionaries(
    {"custom_id": st.text(max_size=5) | _values},
    optional={
        "result": st.fixed_dictionaries({"type": _kinds | _values}, optional={"message": _values, "error": _errors})
    },
).map(orjson.dumps)


@given(st.binary(max_size=30) | _lines)
def test_whatever_a_line_of_results_holds_has_a_meaning(line: bytes) -> None:
    reader = object.__new__(adapter.AnthropicBatches)
    reader._key = None
    try:
        result = reader._result(Line(line))
    except Fault as fault:
        result = ("", fault)
    if result is None:  # nobody knows whose it is
        return
    key, found = result
    assert isinstance(key, str)
    assert isinstance(found, Answer | Fault | Unanswerable | ProviderError)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (Line(b'{"custom_id":"k-1","result":{"type":"succ'), "k-1"),
        (Line(b'{"custom_id":"k-1","result":{"type":"succ', is_too_long=True), "k-1"),
        (Line(b' { "custom_id" : "k-1", "result": 7}'), "k-1"),
        # further on, the name may be one that the answer itself holds
        (Line(b'{"result":{"message":{"custom_id":"k-1",', is_too_long=True), None),
    ],
)
def test_a_line_that_cannot_be_read_is_its_own_requests_fault(line: Line, key: str | None) -> None:
    result = object.__new__(adapter.AnthropicBatches)._result(line)
    assert (result and result[0]) == key
    if result is not None:
        assert isinstance(result[1], Fault)
        assert (result[1].kind, result[1].maybe_paid) == ("malformed", True)


@pytest.mark.parametrize("is_too_long", [True, False])
def test_a_line_that_breaks_off_costs_nobody_an_answer(is_too_long: bool) -> None:
    reader = object.__new__(adapter.AnthropicBatches)
    reader._key = None
    line = Line(b'{"custom_id":"k-1","result":{"type":"succ', is_ended=False, is_too_long=is_too_long)
    with pytest.raises(Fault) as raised:
        reader._result(line)
    assert not raised.value.maybe_paid


def write_all(server: LoopbackServer, folder: Path, **settings: Any) -> tuple[Written, Totals]:
    """Write five conversations of two requests each, in two batches if nothing goes wrong."""

    async def work(batches: Batches) -> Written:
        with JobStore.open(folder / "requests.sqlite", budget=None) as store:
            return await write_batches(work_of([scenario(number) for number in range(5)], store, **settings), batches)

    written = run(server, work)
    with JobStore.read(folder / "requests.sqlite") as store:
        return written, store.totals()


def sent(server: LoopbackServer) -> Counter[str]:
    return Counter(key for entry in server.log() if entry["path"] == "create" for key in entry["keys"])


@pytest.fixture
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(batch_waiting, "FIRST_POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("_short_polls")
@pytest.mark.parametrize("fault", ["long", "malformed"])
def test_a_result_that_cannot_be_read_costs_its_own_request_only(
    start_server: StartServer, tmp_path: Path, fault: str
) -> None:
    server = start_server(faults=[{"fault": fault, "path": "line", "at_most": 1}])
    written, totals = write_all(server, tmp_path)
    assert written.finished == 5
    assert sorted(sent(server).values()) == [1] * 9 + [2]
    assert totals.faults == {"malformed": 1}
    assert totals.maybe_spent == FlatPrice().most(requests(1)[0], batch=True)


@pytest.mark.usefixtures("_short_polls")
@pytest.mark.parametrize("status", [404, 410])
def test_a_batch_whose_results_the_provider_has_no_more_is_closed_and_asked_again(
    start_server: StartServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    """Once they were asked for as often as the recipe says: twice, here."""
    fault = {"fault": "status", "path": "results", "at_most": 2, "status": status, "type": "not_found_error"}
    server = start_server(faults=[fault])
    written, totals = write_all(server, tmp_path, attempts=2)
    assert written.finished == 5
    assert sorted(sent(server).values()) == [1] * 5 + [2] * 5
    assert totals.faults == {"lost": 5}
    assert totals.maybe_spent == 5 * FlatPrice().most(requests(1)[0], batch=True)
    assert "no such results (any more)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("_short_polls")
@pytest.mark.parametrize("path", ["poll", "results"])
def test_a_batch_that_is_not_found_once_is_asked_for_again(
    start_server: StartServer, tmp_path: Path, path: str
) -> None:
    fault = {"fault": "status", "path": path, "tries": 1, "status": 404, "type": "not_found_error"}
    server = start_server(faults=[fault])
    written, totals = write_all(server, tmp_path)
    assert written.finished == 5
    assert sum(entry["path"] == path and entry["status"] == 404 for entry in server.log()) == 2  # of each batch
    assert sorted(sent(server).values()) == [1] * 10
    assert (totals.faults, totals.maybe_spent) == ({}, 0)
