"""The pace: slowly up, quickly down, once for each round trip; and nobody comes back in step."""

import asyncio
import random
import time

import pytest

from genesis_sft.synthesis.asking.request import Fault
from genesis_sft.synthesis.writing.pace import LONGEST_WAIT_SECONDS, START, Pace, Stopping, backoff_seconds

TOO_MUCH = Fault("rate limit", "slow down")


def grown(pace: Pace, limit: int) -> float:
    """Let answers come until the limit is reached; returns a moment at which slots were taken after all of it."""
    while pace.limit < limit:
        pace.succeeded()
    return time.monotonic()


def test_the_limit_doubles_with_every_round_until_the_first_complaint() -> None:
    pace = Pace(100)
    for expected in (START, 2 * START, 4 * START):
        assert pace.limit == expected
        for _ in range(pace.limit):
            pace.succeeded()


def test_after_a_complaint_it_is_halved_and_then_grows_by_one_with_every_round() -> None:
    pace = Pace(100)
    pace.failed(TOO_MUCH, grown(pace, 16))
    assert pace.limit == 8
    for _ in range(9):  # the first of nine answers counts an eighth, the last a little less
        pace.succeeded()
    assert pace.limit == 9


def test_requests_that_were_under_way_together_halve_it_once() -> None:
    pace = Pace(100)
    together = grown(pace, 32)
    for _ in range(20):
        pace.failed(TOO_MUCH, together)
    assert pace.limit == 16
    pace.failed(TOO_MUCH, time.monotonic())  # taken after the cut: the provider still says so
    assert pace.limit == 8


@pytest.mark.parametrize(
    ("kind", "halves"), [("overloaded", True), ("timeout", True), ("no connection", False), ("malformed", False)]
)
def test_only_what_more_at_once_makes_worse_halves_it(kind: str, halves: bool) -> None:
    pace = Pace(100)
    pace.failed(Fault(kind, ""), grown(pace, 16))  # type: ignore[arg-type]
    assert pace.limit == (8 if halves else 16)


def test_it_stays_between_one_and_the_recipes_number() -> None:
    pace = Pace(6)
    for _ in range(100):
        pace.succeeded()
    assert pace.limit == 6
    for _ in range(10):
        pace.failed(TOO_MUCH, time.monotonic())
    assert pace.limit == 1


def test_slots_go_to_the_earliest_conversation_and_never_beyond_the_limit() -> None:
    async def run() -> list[int]:
        pace, order = Pace(1), []

        async def one(priority: int) -> None:
            await pace.take(priority)
            assert pace.under_way == 1
            order.append(priority)
            await asyncio.sleep(0)
            pace.give_back()

        await pace.take(0)
        tasks = [asyncio.create_task(one(priority)) for priority in (5, 2, 9, 1)]
        await asyncio.sleep(0)
        pace.give_back()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == [1, 2, 5, 9]


def test_a_waiter_that_is_cancelled_leaves_no_slot_taken() -> None:
    async def run() -> int:
        pace = Pace(1)
        await pace.take(0)
        waiting = [asyncio.create_task(pace.take(priority)) for priority in (1, 2)]
        await asyncio.sleep(0)
        pace.give_back()  # granted to the first, which is cancelled before it hears of it
        waiting[0].cancel()
        await asyncio.wait_for(waiting[1], 5)
        return pace.under_way

    assert asyncio.run(run()) == 1


def test_nobody_gets_a_slot_before_the_providers_pause_is_over() -> None:
    async def run() -> None:
        pace = Pace(4)
        await pace.take(0)
        asked_at = time.monotonic()
        pace.failed(Fault("rate limit", "", retry_after=0.2), asked_at)
        pace.failed(Fault("rate limit", "", retry_after=0.01), asked_at)  # a shorter one does not cut it short
        pace.give_back()
        await asyncio.gather(*(pace.take(number) for number in range(2)))
        assert time.monotonic() - asked_at >= 0.2

    asyncio.run(run())


def test_when_the_run_stops_those_who_wait_are_told() -> None:
    async def run() -> None:
        pace = Pace(1)
        await pace.take(0)
        waiting = asyncio.create_task(pace.take(1))
        await asyncio.sleep(0)
        pace.stop()
        with pytest.raises(Stopping):
            await waiting
        with pytest.raises(Stopping):
            await pace.take(2)

    asyncio.run(run())


def test_backoff_is_spread_over_all_of_an_interval_that_doubles_up_to_a_minute() -> None:
    draw = random.Random(0)
    for attempt, longest in ((0, 1.0), (3, 8.0), (6, 60.0), (50, LONGEST_WAIT_SECONDS)):
        waits = [backoff_seconds(attempt, draw) for _ in range(2000)]
        assert 0 <= min(waits) < 0.05 * longest
        assert 0.95 * longest < max(waits) <= longest
        assert sum(waits) / len(waits) == pytest.approx(longest / 2, rel=0.1)
    assert [backoff_seconds(2, random.Random(7)) for _ in range(2)] == [backoff_seconds(2, random.Random(7))] * 2
