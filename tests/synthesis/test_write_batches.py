"""Batches: what is at the provider is never sent again, and a crash between sending and recording is mended."""

import asyncio
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.errors import InputError, RunDirError, Stopped
from genesis_sft.synthesis.asking.request import Answer, Fault, Request, Usage
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.providers import Batch, ProviderError, Unanswerable
from genesis_sft.synthesis.store import changes
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.writing import batch_mending, batch_results, write_batches
from genesis_sft.synthesis.writing.written import Written
from tests.synthesis.writing import FlatPrice, TinyChain, answer, scenario, text_for, work_of

Result = Answer | Fault | Unanswerable | ProviderError


pytestmark = pytest.mark.usefixtures("short_waits")


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


class TinyBatches:
    """A provider's batches, which outlive the runs that talk to it.

    Args:
        behave: Called with each request of a batch and the number of times it was sent; ``None``: an answer.
    """

    def __init__(self, behave: Callable[[Request, int], Result | None] = lambda asked, tries: None) -> None:
        self._behave = behave
        self.at_provider: dict[str, tuple[Batch, dict[str, Result]]] = {}
        self.sent: list[str] = []
        self.faults: list[Fault] = []  # of the next creations
        self.fault_after_creation = False
        self.killed_after_creation = False
        self.breaks: list[int] = []  # after how many results the next downloads break off
        self.billed = 0
        self.clock = timedelta(0)  # of the provider, ahead of ours

    async def create(self, requests: Sequence[Request]) -> Batch:
        if self.faults and not self.fault_after_creation:
            raise self.faults.pop(0)
        keys = [request.key for request in requests]
        assert len(set(keys)) == len(keys)
        results = {}
        for request, key in zip(requests, keys, strict=True):
            self.sent.append(key)
            results[key] = self._behave(request, self.sent.count(key)) or answer(text_for(request))
            self.billed += 15 if isinstance(results[key], Answer) else 0
        batch = Batch(f"batch{len(self.at_provider)}", datetime.now(UTC) + self.clock, len(keys), waiting=len(keys))
        self.at_provider[batch.id] = (batch, results)
        if self.killed_after_creation:
            self.killed_after_creation = False
            raise Killed
        if self.faults:
            raise self.faults.pop(0)
        return batch

    async def poll(self, id: str) -> Batch:
        batch, results = self.at_provider[id]
        done = replace(batch, ended=batch.waiting == 0)
        self.at_provider[id] = (replace(batch, waiting=batch.waiting // 4), results)
        return done

    async def results(self, id: str) -> AsyncIterator[tuple[str, Result]]:
        batch, results = self.at_provider[id]
        assert batch.waiting == 0, "results were asked for before the batch had ended"
        items = list(results.items())
        random.Random(id).shuffle(items)
        breaks_after = self.breaks.pop(0) if self.breaks else len(items)
        for item in itertools.islice(items, breaks_after):
            yield item
        if breaks_after < len(items):
            raise Fault("cut off", "the download broke off")

    async def recent(self, back: timedelta, known: Container[str] = ()) -> list[Batch]:
        newest_first = [batch for batch, _ in reversed(self.at_provider.values())]
        unknown = itertools.takewhile(lambda batch: batch.id not in known, newest_first)
        return [batch for batch in unknown if batch.created_at >= newest_first[0].created_at - back]

    async def close(self) -> None:
        pass


class Forgetful(TinyBatches):
    """Leaves results of its first batch out of the first so many downloads, which end well all the same."""

    def __init__(self, times: int, lacks: int) -> None:
        super().__init__()
        self._times, self._lacks = times, lacks
        self.downloads: Counter[str] = Counter()

    async def results(self, id: str) -> AsyncIterator[tuple[str, Result]]:
        self.downloads[id] += 1
        lacks = self._lacks if id == "batch0" and self.downloads[id] <= self._times else 0
        async for number, item in _enumerate(super().results(id)):
            if number >= lacks:
                yield item


def run(
    folder: Path,
    batches: TinyBatches,
    plan: Sequence[Scenario],
    *,
    budget: int | None = None,
    stop: asyncio.Event | None = None,
    model: str = "m",
    price: FlatPrice | None = None,
    **settings: Any,
) -> Written:
    async def work() -> Written:
        with JobStore.open(folder / "requests.sqlite", budget=budget) as store:
            of = work_of(plan, store, chain=TinyChain(model), price=price, stop=stop, batches=True, **settings)
            return await write_batches.write_batches(of, batches)

    return asyncio.run(work())


def plan_of(count: int, turns: int = 2) -> list[Scenario]:
    return [scenario(number, turns) for number in range(count)]


def money(folder: Path) -> tuple[int, int, int]:
    with JobStore.read(folder / "requests.sqlite") as store:
        totals = store.totals()
        return totals.spent, totals.maybe_spent, totals.reserved


def test_conversations_go_forward_together(tmp_path: Path) -> None:
    batches = TinyBatches()
    written = run(tmp_path, batches, plan_of(30))
    assert (written.finished, written.unfinished) == (30, 0)
    assert len(batches.at_provider) == 4  # a wave for each of question, draft, question, draft
    assert len(set(batches.sent)) == len(batches.sent) == 30 * 4
    assert money(tmp_path) == (batches.billed, 0, 0)
    again = TinyBatches()
    assert run(tmp_path, again, plan_of(30)).finished == 30
    assert again.sent == []


def test_waves_are_cut_to_what_the_provider_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_batches, "MAX_BATCH_REQUESTS", 7)
    batches = TinyBatches()
    assert run(tmp_path, batches, plan_of(30, turns=1)).finished == 30
    assert sorted(batch.count for batch, _ in batches.at_provider.values()) == sorted([7, 7, 7, 7, 2] * 2)


def test_expired_and_errored_items_are_sent_again_and_invalid_ones_end_their_conversation(tmp_path: Path) -> None:
    def behave(asked: Request, tries: int) -> Result | None:
        if asked.step == "draft" and tries <= 2 and asked.scenario in (3, 4):
            return Fault("expired" if asked.scenario == 3 else "server error", "later")
        return Unanswerable("invalid") if asked.scenario == 5 else None

    batches = TinyBatches(behave)
    written = run(tmp_path, batches, plan_of(10, turns=1))
    assert (written.finished, written.ended, written.unfinished) == (9, 1, 0)
    assert len(batches.sent) == 10 + 9 + 2 + 2
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_an_item_that_keeps_failing_leaves_its_conversation_for_the_next_run(tmp_path: Path) -> None:
    batches = TinyBatches(lambda asked, tries: Fault("expired", "late") if asked.scenario == 3 else None)
    written = run(tmp_path, batches, plan_of(10, turns=1), attempts=2)
    assert (written.finished, written.unfinished) == (9, 1)
    assert len(batches.sent) == 2 * 10 + 1 - 1


def test_a_download_that_breaks_off_is_taken_up_again(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.breaks = [0, 13, 29]
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_an_item_without_a_result_may_have_been_paid_for(tmp_path: Path) -> None:
    """Only after its batch's results were downloaded as often as the recipe says."""
    batches = Forgetful(times=100, lacks=1)
    assert run(tmp_path, batches, plan_of(5, turns=1), attempts=4).finished == 5
    assert batches.downloads["batch0"] == 4
    assert len(batches.sent) == 11
    assert money(tmp_path)[1] == 500


@pytest.mark.parametrize("lacks", [1, 15, 30])
def test_a_download_that_lacks_results_is_repeated(tmp_path: Path, lacks: int) -> None:
    batches = Forgetful(times=3, lacks=lacks)
    assert run(tmp_path, batches, plan_of(30), attempts=4).finished == 30
    assert batches.downloads["batch0"] == 4
    assert len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_a_batch_that_is_looked_for_is_not_passed_over_for_an_empty_download(tmp_path: Path) -> None:
    batches = Forgetful(times=1, lacks=30)
    batches.faults, batches.fault_after_creation = [Fault("cut off", "no answer", maybe_paid=True)], True
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


async def _enumerate(items: AsyncIterator[Any]) -> AsyncIterator[tuple[int, Any]]:
    number = 0
    async for item in items:
        yield number, item
        number += 1


@pytest.mark.parametrize("reached_provider", [True, False])
def test_killed_between_sending_a_batch_and_recording_it(tmp_path: Path, reached_provider: bool) -> None:
    """Other people's batches of the same size lie at the provider too."""
    batches = TinyBatches()
    strangers = TinyBatches()
    run_folder = tmp_path / "strangers"
    run_folder.mkdir()
    run(run_folder, strangers, [scenario(number, 1) for number in range(100, 130)])
    for name, found in strangers.at_provider.items():
        batches.at_provider[f"other-{name}"] = found[0].__class__(f"other-{name}", datetime.now(UTC), 30), found[1]
    if reached_provider:
        batches.killed_after_creation = True
        with pytest.raises(Killed):
            run(tmp_path, batches, plan_of(30))
    else:
        create = batches.create

        async def kill(requests: Sequence[Request]) -> Batch:
            raise Killed

        batches.create = kill  # type: ignore[method-assign]
        with pytest.raises(Killed):
            run(tmp_path, batches, plan_of(30))
        batches.create = create  # type: ignore[method-assign]
    assert money(tmp_path) == (0, 0, 30 * 500)
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(set(batches.sent)) == len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0 if reached_provider else 30 * 500, 0)


@pytest.mark.parametrize("fault", [Fault("cut off", "no answer", maybe_paid=True), Fault("server error", "internal")])
def test_a_creation_without_an_answer_is_looked_for_before_anything_is_sent_again(tmp_path: Path, fault: Fault) -> None:
    batches = TinyBatches()
    batches.faults, batches.fault_after_creation = [fault], True
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(set(batches.sent)) == len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_a_creation_that_failed_at_the_provider_and_is_not_in_its_list_costs_nothing(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.faults = [Fault("server error", "internal")]
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_a_creation_that_was_refused_for_now_is_tried_again(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.faults = [Fault("rate limit", "slow"), Fault("cut off", "before it arrived", maybe_paid=True)]
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 30 * 500, 0)  # of the second, nobody can say for sure


def test_a_creation_that_is_refused_ends_the_run_and_costs_nothing(tmp_path: Path) -> None:
    batches = TinyBatches()

    async def refuse(requests: Sequence[Request]) -> Batch:
        raise ProviderError("the key is wrong")

    batches.create = refuse  # type: ignore[method-assign]
    with pytest.raises(InputError, match="the key is wrong"):
        run(tmp_path, batches, plan_of(30))
    assert money(tmp_path) == (0, 0, 0)


def test_a_provider_that_never_answers_ends_the_run(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.faults = [Fault("connection", "connection refused")] * 100
    with pytest.raises(InputError, match="connection refused"):
        run(tmp_path, batches, plan_of(30), attempts=3)
    assert len(batches.faults) == 97
    assert money(tmp_path) == (0, 0, 0)


@pytest.mark.parametrize("first", [[], [Fault("overloaded", "later")]])
def test_only_a_provider_that_was_there_is_waited_for(tmp_path: Path, first: list[Fault]) -> None:
    batches = TinyBatches()
    batches.faults = [*first, *[Fault("no connection", "refused")] * 5]
    if first:
        assert run(tmp_path, batches, plan_of(30)).finished == 30
    else:
        with pytest.raises(InputError, match=r"a server at https://api.anthropic.com: refused") as caught:
            run(tmp_path, batches, plan_of(30))
        assert "Is this machine online" in str(caught.value.hint)
        assert len(batches.faults) == 5 - 3
        assert money(tmp_path) == (0, 0, 0)


def test_a_disk_that_is_full_during_a_download_loses_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those before it nor, once there is room, those behind it; none is sent again."""
    end_answered, count = changes.end_answered, 0

    def full(*arguments: Any) -> Answer:
        nonlocal count
        count += 1
        if count > 9:
            raise sqlite3.OperationalError("database or disk is full")
        return end_answered(*arguments)

    monkeypatch.setattr(batch_results, "_COMMITTED_TOGETHER", 4)
    monkeypatch.setattr(changes, "end_answered", full)
    batches = TinyBatches()
    with pytest.raises(RunDirError, match="is full"):
        run(tmp_path, batches, plan_of(30))
    monkeypatch.setattr(changes, "end_answered", end_answered)
    spent, maybe, reserved = money(tmp_path)
    assert 8 * 15 <= spent < 12 * 15
    assert (maybe, reserved) == (0, (30 - spent // 15) * 500)
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(set(batches.sent)) == len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


@pytest.mark.parametrize("at", ["create", "poll", "results"])
def test_a_second_interruption_ends_at_once_and_loses_no_answer(tmp_path: Path, at: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    batches = TinyBatches()
    create, poll, results = batches.create, batches.poll, batches.results

    async def interrupted() -> None:
        asyncio.get_running_loop().call_soon(interrupt)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def create_interrupted(requests: Sequence[Request]) -> Batch:
        batch = await create(requests)
        await interrupted()
        return batch

    async def poll_interrupted(id: str) -> Batch:
        await interrupted()
        return await poll(id)

    async def results_interrupted(id: str) -> AsyncIterator[tuple[str, Result]]:
        async for number, item in _enumerate(results(id)):
            if number == 7:
                await interrupted()
            yield item

    ways = {"create": create_interrupted, "poll": poll_interrupted, "results": results_interrupted}
    setattr(batches, at, ways[at])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batches, plan_of(30))
    setattr(batches, at, {"create": create, "poll": poll, "results": results}[at])
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(set(batches.sent)) == len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_stopped_while_a_batch_is_at_the_provider_and_collected_by_the_same_command(tmp_path: Path) -> None:
    batches, stop = TinyBatches(), asyncio.Event()
    poll = batches.poll

    async def slow(id: str) -> Batch:
        stop.set()
        return replace(await poll(id), ended=False)

    batches.poll = slow  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="1 batch stays at the provider"):
        run(tmp_path, batches, plan_of(30), stop=stop)
    assert money(tmp_path) == (0, 0, 30 * 500)
    batches.poll = poll  # type: ignore[method-assign]
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(set(batches.sent)) == len(batches.sent) == 120


@pytest.mark.parametrize("budget", [400, 5_000, 16_000])
def test_the_budget_covers_every_batch_and_is_used_up(tmp_path: Path, budget: int) -> None:
    def behave(asked: Request, tries: int) -> Result | None:
        return answer("long", usage=Usage(output=1000)) if asked.scenario % 3 == 0 else None

    batches = TinyBatches(behave)
    written = run(tmp_path, batches, plan_of(30), budget=budget)
    spent, maybe, reserved = money(tmp_path)
    assert spent + maybe <= budget
    assert reserved == 0
    assert written.unfinished > 0
    assert written.why is not None
    assert "budget" in written.why
    assert budget - spent < 500  # what is left covers no request


def test_a_batch_of_other_prompts_is_collected_and_not_used(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.killed_after_creation = True
    with pytest.raises(Killed):
        run(tmp_path, batches, plan_of(30))
    fewer = run(tmp_path, batches, plan_of(3))  # a smaller plan: the rest of the batch is taken in all the same
    assert fewer.finished == 3
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        assert len(store.scenarios()) == 30
        assert store.totals().answered == 30 + 9


def refuse_model(asked: Request, tries: int) -> Result | None:
    return ProviderError(f"no such model: {asked.model}") if asked.model == "wrong" else None


@pytest.mark.parametrize("then", ["m", "wrong"])
def test_refused_items_end_the_run_cost_nothing_and_stand_in_nobodys_way(tmp_path: Path, then: str) -> None:
    batches = TinyBatches(refuse_model)
    with pytest.raises(ProviderError, match="no such model: wrong"):
        run(tmp_path, batches, plan_of(30), model="wrong")
    assert money(tmp_path) == (0, 0, 0)
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        assert store.totals().faults == {"refused": 30}
        assert store.open_batches() == []
    assert len(batches.at_provider) == 1
    if then == "wrong":
        batches._behave = lambda asked, tries: None  # the account has it now
    assert run(tmp_path, batches, plan_of(30), model=then).finished == 30


def test_answers_beside_refused_items_are_kept(tmp_path: Path) -> None:
    refused = [ProviderError("no credit is left")]
    batches = TinyBatches(lambda asked, tries: refused[0] if refused and asked.scenario == 7 else None)
    with pytest.raises(ProviderError, match="no credit"):
        run(tmp_path, batches, plan_of(10, turns=1))
    assert money(tmp_path) == (batches.billed, 0, 0) == (9 * 15, 0, 0)
    refused.clear()
    assert run(tmp_path, batches, plan_of(10, turns=1)).finished == 10
    assert len(batches.sent) == 20 + 1


def test_refused_items_of_another_model_do_not_end_the_run_that_collects_them(tmp_path: Path) -> None:
    batches = TinyBatches(refuse_model)
    batches.killed_after_creation = True
    with pytest.raises(Killed):
        run(tmp_path, batches, plan_of(30), model="wrong")
    assert run(tmp_path, batches, plan_of(30)).finished == 30


@pytest.mark.parametrize("gone", ["batch", "results"])
def test_a_batch_that_the_provider_no_longer_knows_is_closed_as_perhaps_paid_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    batches = TinyBatches()
    batches.breaks = [0] * 3
    with pytest.raises(InputError, match="3 times in a row"):
        run(tmp_path, batches, plan_of(30), attempts=3)
    poll, results, recent = batches.poll, batches.results, batches.recent

    async def poll_none(id: str) -> Batch:
        if gone == "batch" and id == "batch0":
            raise ProviderError("no such batch", is_not_found=True)
        return await poll(id)

    async def without_it(*given: Any) -> list[Batch]:
        return [batch for batch in await recent(*given) if gone != "batch" or batch.id != "batch0"]

    async def no_results(id: str) -> AsyncIterator[tuple[str, Result]]:
        if id == "batch0":
            raise ProviderError("no such batch", is_not_found=True)
        async for item in results(id):
            yield item

    batches.poll, batches.results, batches.recent = poll_none, no_results, without_it  # type: ignore[method-assign]
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(batches.sent) == 120 + 30
    assert money(tmp_path) == (batches.billed - 30 * 15, 30 * 500, 0)
    said = " ".join(capsys.readouterr().err.split())
    assert "batch batch0, sent" in said
    assert "30 requests" in said
    assert "may be charged for twice: up to $0.000015 " in said


def test_a_wrong_address_loses_no_batch(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.breaks = [0] * 3
    with pytest.raises(InputError, match="3 times in a row"):
        run(tmp_path, batches, plan_of(30), attempts=3)
    elsewhere = TinyBatches()

    async def nothing_here(*_: Any) -> Any:
        raise ProviderError("no such address", is_not_found=True)

    elsewhere.poll = elsewhere.recent = nothing_here  # type: ignore[method-assign]
    with pytest.raises(ProviderError, match="no such address"):
        run(tmp_path, elsewhere, plan_of(30))
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_a_batch_costs_what_it_was_sent_at_whatever_the_recipe_names_when_it_is_collected(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.breaks = [0] * 3
    with pytest.raises(InputError, match="3 times in a row"):
        run(tmp_path, batches, plan_of(30), attempts=3, price=FlatPrice(7))
    assert run(tmp_path, batches, plan_of(30), model="cheap", price=FlatPrice(1)).finished == 30
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        costs = {stored.request.model: stored.cost for number in range(30) for stored in store.by_key(number).values()}
    assert costs == {"m": 7 * 15, "cheap": 15}


def test_stopped_during_a_download_takes_all_of_it_in_and_sends_nothing_more(tmp_path: Path) -> None:
    batches, stop = TinyBatches(), asyncio.Event()
    results = batches.results

    async def stopped(id: str) -> AsyncIterator[tuple[str, Result]]:
        async for item in results(id):
            yield item
            stop.set()

    batches.results = stopped  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=r"every answer that came is kept$"):
        run(tmp_path, batches, plan_of(30), stop=stop)
    assert len(batches.at_provider) == 1
    assert money(tmp_path) == (30 * 15, 0, 0)


def test_stopped_while_a_wave_is_sent_sends_no_other_batch_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batches, "MAX_BATCH_REQUESTS", 7)
    batches, stop = TinyBatches(), asyncio.Event()
    create = batches.create

    async def stopped(requests: Sequence[Request]) -> Batch:
        stop.set()
        return await create(requests)

    batches.create = stopped  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="1 batch stays at"):
        run(tmp_path, batches, plan_of(30), stop=stop)
    assert len(batches.at_provider) == 1


@pytest.mark.parametrize("hours", [-30, -3, 3, 30])
@pytest.mark.parametrize("killed", [True, False])
def test_a_batch_without_an_answer_is_found_whatever_the_clocks_say(tmp_path: Path, hours: int, killed: bool) -> None:
    batches = TinyBatches()
    batches.clock = timedelta(hours=hours)
    if killed:
        batches.killed_after_creation = True
        with pytest.raises(Killed):
            run(tmp_path, batches, plan_of(30))
    else:
        batches.faults, batches.fault_after_creation = [Fault("cut off", "no answer", maybe_paid=True)], True
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(set(batches.sent)) == len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_a_batch_that_is_not_found_uses_up_the_budget_it_was_reserved_from(tmp_path: Path) -> None:
    batches = TinyBatches()
    batches.faults = [Fault("cut off", "before it arrived", maybe_paid=True)]
    written = run(tmp_path, batches, plan_of(6, turns=1), budget=6 * 500 + 2 * 500)
    assert written.finished == 6  # a few at a time, with what the first left
    assert max(batch.count for batch, _ in batches.at_provider.values()) == 2
    spent, maybe, reserved = money(tmp_path)
    assert maybe == 6 * 500
    assert spent + maybe + reserved <= 8 * 500


def test_a_stop_does_not_wait_until_the_provider_may_list_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_mending, "SETTLE_SECONDS", 1e6)
    batches, stop = TinyBatches(), asyncio.Event()

    async def no_answer(requests: Sequence[Request]) -> Batch:
        asyncio.get_running_loop().call_later(0.01, stop.set)
        raise Fault("cut off", "no answer", maybe_paid=True)

    batches.create = no_answer  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run(tmp_path, batches, plan_of(3), stop=stop)
    assert money(tmp_path) == (0, 0, 3 * 500)  # looked for by the next run


def test_a_wave_is_told_in_one_line_however_many_batches_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write_batches, "MAX_BATCH_REQUESTS", 1)
    provider = TinyBatches()
    run(tmp_path, provider, plan_of(3))
    told = [line.strip() for line in capsys.readouterr().err.splitlines() if "sent in" in line]
    assert len(told) < len(provider.at_provider)
    assert told[0] == "sent in 3 batches: 3 requests (3 question)"


def test_a_batch_that_is_found_after_its_creation_is_told_as_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = TinyBatches()
    provider.faults, provider.fault_after_creation = [Fault("server error", "internal")], True
    run(tmp_path, provider, plan_of(3, turns=1))
    told = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert [line for line in told if "sent in" in line] == [
        "sent in a batch: 3 requests (3 question)",
        "sent in a batch: 3 requests (3 draft)",
    ]
    assert not [line for line in told if "last run" in line]  # it is this one
