"""The search for a batch that was sent and never named: ours among those of others, whatever the clocks say."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from genesis_sft.errors import Stopped
from genesis_sft.synthesis.providers import Batch
from genesis_sft.synthesis.writing import write_batches
from tests.synthesis.test_write_batches import Killed, Result, TinyBatches, money, plan_of, run
from tests.synthesis.writing import answer

HOUR = timedelta(hours=1)


pytestmark = pytest.mark.usefixtures("short_waits")


class Watched(TinyBatches):
    """Knows whose results were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_into: list[str] = []

    async def results(self, id: str) -> AsyncIterator[tuple[str, Result]]:
        self.looked_into.append(id)
        async for item in super().results(id):
            yield item

    def add_stranger(self, name: str, count: int, hours: float) -> None:
        """Put somebody else's batch there, so many hours from now."""
        batch = Batch(name, datetime.now(UTC) + hours * HOUR, count)
        self.at_provider[name] = (batch, {f"{name}-{number}": answer("theirs") for number in range(count)})


def killed_after_sending(folder: Path, batches: TinyBatches) -> None:
    batches.killed_after_creation = True
    with pytest.raises(Killed):
        run(folder, batches, plan_of(30))


def assert_found_and_finished(folder: Path, batches: TinyBatches) -> None:
    assert run(folder, batches, plan_of(30)).finished == 30
    assert len(set(batches.sent)) == len(batches.sent) == 120
    assert money(folder) == (batches.billed, 0, 0)


def test_newer_batches_of_others_are_told_by_their_keys(tmp_path: Path) -> None:
    """One of the same size came twenty hours after ours, by the provider's clock."""
    batches = Watched()
    killed_after_sending(tmp_path, batches)
    batches.add_stranger("theirs", 30, hours=20)
    assert_found_and_finished(tmp_path, batches)


def test_a_batch_of_another_size_and_one_that_is_known_are_not_looked_into(tmp_path: Path) -> None:
    batches = Watched()
    killed_after_sending(tmp_path, batches)
    batches.add_stranger("larger", 31, hours=1)
    assert_found_and_finished(tmp_path, batches)  # names batch0 and the three that come after it
    assert "larger" not in batches.looked_into
    batches.looked_into.clear()
    batches.killed_after_creation = True
    with pytest.raises(Killed):
        run(tmp_path, batches, plan_of(60)[30:])
    del batches.at_provider[next(reversed(batches.at_provider))]  # it never came to the provider
    assert run(tmp_path, batches, plan_of(60)[30:]).finished == 30
    assert not set(batches.looked_into) & {"batch0", "batch2", "batch3", "batch4"}


def test_our_clock_may_be_set_back_by_days(tmp_path: Path) -> None:
    batches = Watched()
    killed_after_sending(tmp_path, batches)
    with sqlite3.connect(tmp_path / "requests.sqlite") as store:
        store.execute("UPDATE batches SET created_at = ?", ((datetime.now(UTC) + 48 * HOUR).isoformat(),))
    store.close()
    assert_found_and_finished(tmp_path, batches)


def test_stopped_during_a_download_the_next_batch_is_left_at_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batches, "MAX_BATCH_REQUESTS", 15)
    stop = asyncio.Event()

    class Stopping(Watched):
        async def poll(self, id: str) -> Batch:
            batch, results = self.at_provider[id]
            self.at_provider[id] = (replace(batch, waiting=0), results)
            return replace(batch, ended=True)

        async def results(self, id: str) -> AsyncIterator[tuple[str, Result]]:
            stop.set()
            async for item in super().results(id):
                yield item

    batches = Stopping()
    with pytest.raises(Stopped, match="1 batch stays at"):
        run(tmp_path, batches, plan_of(30), stop=stop)
    assert batches.looked_into == ["batch0"]
    assert money(tmp_path) == (15 * 15, 0, 15 * 500)
