"""The loop: in the plan's order, depth first, never twice, and it ends clearly whatever the provider does."""

import asyncio
import gc
import os
import signal
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.errors import InputError, RunDirError, Stopped
from genesis_sft.synthesis.asking.request import Answer, Fault, Request
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.providers import ProviderError, Unanswerable
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.replay import survey
from genesis_sft.synthesis.writing import pace
from genesis_sft.synthesis.writing.stopping import stop_requests
from genesis_sft.synthesis.writing.write import write
from genesis_sft.synthesis.writing.written import Written
from tests.synthesis.writing import (
    NoProgress,
    TinyChain,
    TinyProvider,
    answer,
    request,
    scenario,
    text_for,
    work_of,
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT_SECONDS", 0.001)


def run(
    folder: Path,
    provider: TinyProvider,
    plan: Sequence[Scenario],
    *,
    stop_after: int | None = None,
    chain: Any = None,
    progress: NoProgress | None = None,
    **settings: Any,
) -> Written:
    """Write a plan; where wanted, ask to stop when the provider was asked so many times."""

    async def work() -> Written:
        stop = asyncio.Event()

        async def watch() -> None:
            while len(provider.asked) < (stop_after or 0):
                await asyncio.sleep(0)
            stop.set()

        watcher = None if stop_after is None else asyncio.create_task(watch())
        with JobStore.open(folder / "requests.sqlite", budget=None) as store:
            work = work_of(plan, store, chain=chain, stop=stop, progress=progress, **settings)
            written = await write(work, provider)
        if watcher is not None:
            watcher.cancel()
        return written

    return asyncio.run(work())


def plan_of(count: int, turns: int = 2) -> list[Scenario]:
    return [scenario(number, turns) for number in range(count)]


def test_every_conversation_is_written_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    provider, progress = TinyProvider(), NoProgress()
    written = run(tmp_path, provider, plan_of(20), progress=progress)
    assert (written.finished, written.ended, written.unfinished, written.why) == (20, 0, 0, None)
    assert len(provider.asked) == len(set(provider.asked)) == 20 * 4
    assert progress.done == 20
    assert "80 requests" in progress.note
    again = TinyProvider()
    assert run(tmp_path, again, plan_of(20)).finished == 20
    assert again.asked == []


@pytest.mark.parametrize("slots", [1, 2])
def test_conversations_are_finished_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """Eight conversations are at hand, and the provider takes few requests at once: the earliest go first."""
    monkeypatch.setattr(pace, "START", slots)
    monkeypatch.setattr(pace.Pace, "succeeded", lambda self: None)
    asked: list[int] = []

    async def behave(request: Request) -> None:
        asked.append(request.scenario)

    run(tmp_path, TinyProvider(behave), plan_of(40), concurrency=8)  # type: ignore[arg-type]
    places: dict[int, list[int]] = {}
    for place, number in enumerate(asked):
        places.setdefault(number, []).append(place)
    # while an answer is written down its slot goes to the next in line: two conversations a slot, of four requests each
    assert max(max(found) - min(found) for found in places.values()) <= 2 * slots * 4


def test_never_more_requests_at_once_than_the_recipe_says(tmp_path: Path) -> None:
    async def behave(_: Request) -> None:
        await asyncio.sleep(0.001)

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    run(tmp_path, provider, plan_of(60), concurrency=7)
    assert provider.most_under_way == 7


def test_memory_does_not_grow_with_the_plan(tmp_path: Path) -> None:
    class Endless(Sequence[Scenario]):
        def __init__(self, count: int) -> None:
            self._count = count

        def __len__(self) -> int:
            return self._count

        def __getitem__(self, number: Any) -> Any:
            raise AssertionError

        def __iter__(self) -> Iterator[Scenario]:
            return (scenario(number) for number in range(self._count))

    class Measuring(NoProgress):
        """Takes the memory in use when all but a few conversations are done."""

        def __init__(self, at: int) -> None:
            super().__init__()
            self._at, self.in_use = at, 0

        def advance(self, amount: float = 1, note: str = "") -> None:
            super().advance(amount, note)
            if amount and self.done == self._at:
                gc.collect()
                self.in_use = tracemalloc.get_traced_memory()[0]

    in_use = []
    for count in (100, 100, 600):
        folder = tmp_path / f"{len(in_use)}"
        folder.mkdir()
        provider, bar = TinyProvider(), Measuring(count - 40)
        provider.asked = type("Forgetful", (list,), {"append": lambda self, key: None})()
        tracemalloc.start()
        assert run(folder, provider, Endless(count), progress=bar).finished == count
        in_use.append(bar.in_use)
        tracemalloc.stop()
    # the first one pays for what is imported and compiled once; a conversation's texts and requests take kilobytes
    assert in_use[2] - in_use[1] < 500 * 100, in_use


def test_faults_are_tried_again_until_there_is_an_answer(tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    async def behave(asked: Request) -> None:
        tries[asked.key] = tries.get(asked.key, 0) + 1
        if tries[asked.key] <= 2:
            kind = ("rate limit", "overloaded", "timeout", "server error")[asked.scenario % 4]
            raise Fault(kind, "again", maybe_paid=kind == "timeout")  # type: ignore[arg-type]

    written = run(tmp_path, TinyProvider(behave), plan_of(12), attempts=3)  # type: ignore[arg-type]
    assert (written.finished, written.unfinished) == (12, 0)
    assert set(tries.values()) == {3}
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        totals = store.totals()
        assert sum(totals.faults.values()) == 2 * 12 * 4
        assert totals.maybe_spent == totals.faults["timeout"] * 1000


def test_a_request_that_keeps_failing_leaves_its_conversation_for_the_next_run(tmp_path: Path) -> None:
    async def behave(asked: Request) -> None:
        if asked.scenario == 3 and asked.step == "draft":
            raise Fault("malformed", "no JSON", maybe_paid=True)

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    written = run(tmp_path, provider, plan_of(10, turns=1), attempts=3)
    assert (written.finished, written.unfinished, written.why) == (9, 1, None)
    assert written.unfinished_by == {"malformed": 1}
    again = TinyProvider()
    assert run(tmp_path, again, plan_of(10, turns=1)).finished == 10
    assert len(again.asked) == 1


def test_an_answer_that_ends_a_conversation_costs_no_more_requests(tmp_path: Path) -> None:
    async def behave(asked: Request) -> Answer | None:
        return answer("end") if asked.scenario == 1 and asked.step == "draft" and asked.turn == 0 else None

    provider = TinyProvider(behave)
    written = run(tmp_path, provider, plan_of(3))
    assert (written.finished, written.ended, dict(written.ended_by)) == (2, 1, {"empty answer": 1})
    assert len(provider.asked) == 4 + 2 + 4


def test_a_request_that_cannot_be_answered_ends_its_conversation_for_good(tmp_path: Path) -> None:
    async def behave(asked: Request) -> None:
        if asked.scenario == 1:
            raise Unanswerable("the prompt is too long")

    written = run(tmp_path, TinyProvider(behave), plan_of(3))  # type: ignore[arg-type]
    assert (written.finished, written.ended) == (2, 1)
    again = TinyProvider()
    assert run(tmp_path, again, plan_of(3)).ended == 1
    assert again.asked == []
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        assert survey(TinyChain(), plan_of(3), store).ended == {"not answerable": 1}  # type: ignore[arg-type]
        assert store.totals().maybe_spent == 0


def test_an_error_of_the_user_ends_the_run_and_costs_nothing(tmp_path: Path) -> None:
    async def behave(_: Request) -> None:
        raise ProviderError("the key is wrong", hint="Set another.")

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match="the key is wrong"):
        run(tmp_path, provider, plan_of(500), concurrency=4)
    assert len(provider.asked) <= 4
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        assert (store.totals().spent, store.totals().maybe_spent, store.totals().under_way) == (0, 0, 0)


def test_a_server_that_is_not_there_ends_the_run_with_one_message(tmp_path: Path) -> None:
    async def behave(_: Request) -> None:
        raise Fault("connection", "connection refused")

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="connection refused") as caught:
        run(tmp_path, provider, plan_of(10_000), attempts=4)
    assert caught.value.exit_status == 2
    assert len(provider.asked) < 100


LOCAL: dict[str, Any] = {"api": "openai", "model": "m", "base_url": "http://127.0.0.1:11434/v1"}


def test_a_server_that_nobody_can_connect_to_is_named_after_three_tries(tmp_path: Path) -> None:
    async def behave(_: Request) -> None:
        raise Fault("no connection", "no connection to 127.0.0.1:11434: refused")

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a server at http://127.0.0.1:11434/v1: .* refused") as caught:
        run(tmp_path, provider, plan_of(10_000), **LOCAL)
    assert caught.value.exit_status == 2
    assert "Is the server running" in str(caught.value.hint)
    assert max(Counter(provider.asked).values()) == 3


@pytest.mark.parametrize("first", [Fault("overloaded", "Loading model"), None])
def test_a_server_that_was_there_once_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Fault | None
) -> None:
    """It says that it loads its model, or it answers; then nothing listens for a while."""
    monkeypatch.setattr(pace, "LONGEST_WAIT_SECONDS", 0.001)
    calls = 0

    async def behave(_: Request) -> None:
        nonlocal calls
        calls += 1
        if calls == 1 and first is not None:
            raise first
        if 1 < calls <= 40:
            raise Fault("no connection", "refused")

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    assert run(tmp_path, provider, plan_of(5), attempts=50, concurrency=1).finished == 5


def test_a_server_that_goes_away_ends_the_run_and_keeps_what_it_answered(tmp_path: Path) -> None:
    calls = 0

    async def behave(_: Request) -> None:
        nonlocal calls
        calls += 1
        if calls > 100:
            raise Fault("no connection", "connection refused")

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    with pytest.raises(Stopped, match="connection refused"):
        run(tmp_path, provider, plan_of(10_000), attempts=4)
    assert len(provider.asked) < 400
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        assert store.totals().answered == 100


def test_a_provider_that_wants_to_be_left_alone_for_hours_is(tmp_path: Path) -> None:
    async def behave(_: Request) -> None:
        raise Fault("rate limit", "the day's tokens are used up", retry_after=3600)

    with pytest.raises(Stopped, match="1 h 00 min"):
        run(tmp_path, TinyProvider(behave), plan_of(10))  # type: ignore[arg-type]


def test_a_request_to_stop_takes_in_what_is_under_way(tmp_path: Path) -> None:
    async def behave(_: Request) -> None:
        await asyncio.sleep(0.02)

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    with pytest.raises(Stopped, match="every answer that came is kept"):
        run(tmp_path, provider, plan_of(50), stop_after=11, concurrency=4)
    assert len(provider.asked) < 20
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        assert store.totals().answered == len(provider.asked)
        assert store.totals().under_way == 0
    assert run(tmp_path, TinyProvider(), plan_of(50)).finished == 50


def test_what_hangs_is_waited_for_only_as_long_as_an_answer_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genesis_sft.synthesis.writing.write._GRACE_SECONDS", 0.0)

    async def behave(_: Request) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stopped):
        run(tmp_path, TinyProvider(behave), plan_of(50), stop_after=2, timeout_seconds=0.1)  # type: ignore[arg-type]
    with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
        assert store.ledger.maybe_spent == 4000  # nobody knows


def test_a_stop_that_comes_when_all_is_done_is_no_stop(tmp_path: Path) -> None:
    provider = TinyProvider()
    assert run(tmp_path, provider, plan_of(1, turns=1), stop_after=2, concurrency=1).finished == 1


def test_a_disk_that_is_full_ends_the_run_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, count = JobStore.answered, 0

    async def small_disk(self: JobStore, *args: Any) -> Answer:
        nonlocal count
        count += 1
        if count == 10:
            pages = await self._commits.change(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
            await self._commits.change(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone())
        return await answered(self, *args)

    monkeypatch.setattr(JobStore, "answered", small_disk)

    async def behave(asked: Request) -> Answer:
        return answer(text_for(asked) + " word" * 5000)

    provider = TinyProvider(behave)
    with pytest.raises(RunDirError, match=r"full|could not be written"):
        run(tmp_path, provider, plan_of(200))
    monkeypatch.undo()
    assert run(tmp_path, TinyProvider(), plan_of(200)).finished == 200


def test_requests_in_a_batch_are_not_asked_again_one_by_one(tmp_path: Path) -> None:
    async def intend() -> None:
        with JobStore.open(tmp_path / "requests.sqlite", budget=None) as store:
            await store.intend_batch([request()], [100], "{}")

    asyncio.run(intend())
    provider = TinyProvider()
    with pytest.raises(InputError, match="batch"):
        run(tmp_path, provider, plan_of(3))
    assert provider.asked == []


def test_a_bug_is_not_taken_for_an_end(tmp_path: Path) -> None:
    class Broken(TinyChain):
        def next(self, planned: Scenario, answers: Any) -> Any:
            if planned.number == 5:
                raise ZeroDivisionError
            return super().next(planned, answers)

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, TinyProvider(), plan_of(10), chain=Broken())


def test_the_first_signal_asks_and_the_second_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genesis_sft.synthesis.writing.stopping._SAME_REQUEST_SECONDS", 0.05)
    before = signal.getsignal(signal.SIGTERM)
    reached = []

    async def work() -> None:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)  # of the same request
            await asyncio.wait_for(stop.wait(), 5)
            await asyncio.sleep(0.1)
            reached.append("asked")
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(5)
            reached.append("not interrupted")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
    assert reached == ["asked"]
    assert signal.getsignal(signal.SIGTERM) is before
