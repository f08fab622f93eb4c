"""The budget is a promise: whatever fails, whoever bills, the sum of all bills does not exceed it."""

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.synthesis.asking.request import Answer, Fault, Request, Usage
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.ledger import BudgetSpent, Ledger, format_usd
from genesis_sft.synthesis.writing import pace
from genesis_sft.synthesis.writing.write import write
from genesis_sft.synthesis.writing.written import Written
from tests.synthesis.writing import TinyProvider, answer, request, scenario, work_of


@given(
    budget=st.integers(0, 5000),
    moves=st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(("cost", "lost", "free")), st.floats(0, 1))),
)
def test_the_ledgers_sum_never_exceeds_the_budget(budget: int, moves: list[tuple[int, str, float]]) -> None:
    ledger, charged, under_way = Ledger(budget), 0, []
    for most, fate, share in moves:
        left = ledger.left or 0
        if most > left:
            with pytest.raises(BudgetSpent):
                ledger.reserve(most)
            continue
        ledger.reserve(most)
        under_way.append((most, fate, share))
        if len(under_way) > 3:
            most, end, share = under_way.pop(0)
            cost = int(share * most)
            charged += cost if end != "free" else 0
            ledger.settle(most, cost=cost if end == "cost" else 0, maybe_cost=most if end == "lost" else 0)
        worst = charged + sum(most for most, _, _ in under_way)
        assert worst <= budget
        assert ledger.spent + ledger.maybe_spent + ledger.reserved <= budget


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [500, 20_000, 60_000])
def test_32_workers_with_faults_never_spend_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, seed: int
) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT_SECONDS", 0.001)
    draw, billed = random.Random(seed), 0

    async def behave(asked: Request) -> Answer | None:
        nonlocal billed
        await asyncio.sleep(draw.random() * 0.002)
        fate = draw.random()
        if fate < 0.1:
            raise Fault("rate limit", "slow down")
        cost = draw.randint(1, 1000)
        billed += cost
        if fate < 0.2:  # billed, and the answer was lost on its way
            raise Fault("cut off", "half an answer", maybe_paid=True)
        return answer("text", usage=Usage(input=cost - 1, output=1))

    async def run() -> Written:
        with JobStore.open(tmp_path / "requests.sqlite", budget=budget) as store:
            plan = [scenario(number, turns=2) for number in range(60)]
            return await write(work_of(plan, store, concurrency=32, attempts=5), TinyProvider(behave))

    written = asyncio.run(run())
    assert billed <= budget
    assert written.unfinished > 0
    assert written.why is not None
    assert "budget" in written.why
    with JobStore.open(tmp_path / "requests.sqlite", budget=budget) as store:
        ledger = store.ledger
        assert billed <= ledger.spent + ledger.maybe_spent <= budget
        assert ledger.reserved == 0
        if budget > 2000:  # and it was used: what is left covers no request
            assert ledger.left is not None
            assert ledger.left < 1000


def test_a_run_out_of_budget_says_what_it_spent(tmp_path: Path) -> None:
    async def run() -> Written:
        with JobStore.open(tmp_path / "requests.sqlite", budget=1_000 + 12 * 30) as store:
            plan = [scenario(number) for number in range(100)]
            return await write(work_of(plan, store, concurrency=1), TinyProvider())

    written = asyncio.run(run())
    # a conversation costs 2 x 30; after 12 requests 1,000 are left, which covers a 13th; after it they do not
    assert (written.finished, written.unfinished) == (6, 94)
    assert written.why is not None
    assert "$0.00000039 spent" in written.why  # 13 times 30


def test_a_provider_that_bills_more_than_expected_is_counted_and_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        with JobStore.open(tmp_path / "requests.sqlite", budget=10_000) as store:
            for number in range(2):
                await store.answered(await store.reserve(request(number), 1000), answer(), 4000)
            assert store.ledger.spent == 8000
            with pytest.raises(BudgetSpent):
                await store.reserve(request(2), 2001)
            await store.reserve(request(2), 2000)

    asyncio.run(run())
    assert capsys.readouterr().err.count("it is counted") == 1


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "$0.00"), (12_340_000_000, "$12.34"), (2_100_000, "$0.0021"), (390, "$0.00000039"), (10**13, "$10,000.00")],
)
def test_amounts_for_people(nano: int, text: str) -> None:
    assert format_usd(nano) == text
