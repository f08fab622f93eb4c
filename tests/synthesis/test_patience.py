"""When a run gives up on a provider: neither for one request that fails, nor while others are answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from genesis_sft.errors import Stopped
from genesis_sft.synthesis.asking.request import Fault, Request
from genesis_sft.synthesis.writing import pace, write
from tests.synthesis.test_write import plan_of, run
from tests.synthesis.writing import TinyProvider

NO_JSON = Fault("malformed", "no JSON")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(pace, "LONGEST_WAIT_SECONDS", 0.001)


def test_a_request_that_fails_a_few_times_ends_its_conversation_and_not_the_run(tmp_path: Path) -> None:
    async def behave(asked: Request) -> None:
        if asked.step == "draft":
            raise NO_JSON

    written = run(tmp_path, TinyProvider(behave), plan_of(1), attempts=3)  # type: ignore[arg-type]
    assert (written.finished, dict(written.unfinished_by)) == (0, {"malformed": 1})


def test_a_request_is_tried_as_often_as_the_recipe_says(tmp_path: Path) -> None:
    """More faults in a row than a provider that is gone has, and then an answer."""
    faults = [NO_JSON] * 19

    async def behave(_: Request) -> None:
        if faults:
            raise faults.pop()

    assert run(tmp_path, TinyProvider(behave), plan_of(1), attempts=20).finished == 1  # type: ignore[arg-type]


def test_faults_before_an_answer_do_not_count(tmp_path: Path) -> None:
    """Twenty questions are answered at the second try; then one draft is not answered in three."""
    tries = Counter[str]()

    async def behave(asked: Request) -> None:
        tries[asked.key] += 1
        if (asked.step == "question" and tries[asked.key] == 1) or (asked.step == "draft" and asked.scenario == 19):
            raise NO_JSON

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    written = run(tmp_path, provider, plan_of(20, turns=1), attempts=3, concurrency=1)
    assert (written.finished, dict(written.unfinished_by)) == (19, {"malformed": 1})


def test_a_provider_that_answered_another_request_meanwhile_is_there(tmp_path: Path) -> None:
    """A draft is not answered in 15 tries; the other conversation's question is, after the second of them."""
    tries, begun, over = 0, asyncio.Event(), asyncio.Event()

    async def behave(asked: Request) -> None:
        nonlocal tries
        if asked.scenario == 0 and asked.step == "draft":
            tries += 1
            if tries == 2:
                begun.set()
            if tries == 15:
                asyncio.get_running_loop().call_later(0.05, over.set)
            raise NO_JSON
        if asked.scenario == 1:
            await (begun if asked.step == "question" else over).wait()

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    written = run(tmp_path, provider, plan_of(2, turns=1), attempts=15, concurrency=2)
    assert (written.finished, dict(written.unfinished_by)) == (1, {"malformed": 1})


@pytest.mark.parametrize(("asked_seconds", "waits"), [(0.2, True), (0.21, False)])
def test_a_pause_up_to_the_longest_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_seconds: float, waits: bool
) -> None:
    monkeypatch.setattr(write, "LONGEST_PAUSE_SECONDS", 0.2)
    faults = [Fault("rate limit", "slow down", retry_after=asked_seconds)]

    async def behave(_: Request) -> None:
        if faults:
            raise faults.pop()

    provider = TinyProvider(behave)  # type: ignore[arg-type]
    if waits:
        assert run(tmp_path, provider, plan_of(3)).finished == 3
    else:
        with pytest.raises(Stopped, match="asks to wait"):
            run(tmp_path, provider, plan_of(3))
