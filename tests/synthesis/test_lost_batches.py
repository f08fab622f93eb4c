"""Batches that the provider says it does not have: paid for a second time only where it really has them no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from datetime import timedelta
from pathlib import Path

import pytest

from genesis_sft.errors import InputError
from genesis_sft.synthesis.providers import Batch, ProviderError
from genesis_sft.synthesis.store.job_store import JobStore
from tests.synthesis.test_write_batches import TinyBatches, money, plan_of, run

pytestmark = pytest.mark.usefixtures("short_waits")


class Denying(TinyBatches):
    """Answers some polls with 404.

    Args:
        denies: Called with a batch's name and the number of the poll, from 1.
        lists: Whether its list has such batches all the same; while it denies them, or always.
    """

    def __init__(self, denies: Callable[[str, int], bool], *, lists: bool) -> None:
        super().__init__()
        self.denies, self._lists = denies, lists
        self.polls: Counter[str] = Counter()

    async def poll(self, id: str) -> Batch:
        self.polls[id] += 1
        if self.denies(id, self.polls[id]):
            raise ProviderError("no such batch", is_not_found=True)
        return await super().poll(id)

    async def recent(self, back: timedelta, known: Container[str] = ()) -> list[Batch]:
        found = await super().recent(back, known)
        return [batch for batch in found if self._lists or not self.denies(batch.id, self.polls[batch.id])]


@pytest.mark.parametrize("denied", [{1}, {2}, {1, 2, 3, 5, 6, 7}])
@pytest.mark.parametrize("lists", [True, False])
def test_a_batch_that_is_not_found_for_a_while_is_collected(tmp_path: Path, lists: bool, denied: set[int]) -> None:
    """Every batch; where the list lacks it too, it may be too young to be in it."""
    batches = Denying(lambda id, number: number in denied, lists=lists)
    assert run(tmp_path, batches, plan_of(30), attempts=4).finished == 30
    assert len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_a_batch_in_the_providers_list_is_never_given_up(tmp_path: Path) -> None:
    batches = Denying(lambda id, number: True, lists=True)
    with pytest.raises(InputError, match="batch0 was not found"):
        run(tmp_path, batches, plan_of(30), attempts=3)
    assert batches.polls == {"batch0": 3}
    assert money(tmp_path) == (0, 0, 30 * 500)
    batches.denies = lambda id, number: False
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(batches.sent) == 120
    assert money(tmp_path) == (batches.billed, 0, 0)


def test_a_provider_that_loses_what_it_takes_is_paid_twice_in_a_run_and_no_more(tmp_path: Path) -> None:
    batches = Denying(lambda id, number: True, lists=False)
    with pytest.raises(InputError, match="the second batch that the provider took in this run and has lost"):
        run(tmp_path, batches, plan_of(30))
    assert list(batches.at_provider) == ["batch0", "batch1"]
    assert money(tmp_path) == (0, 30 * 500, 30 * 500)
    with JobStore.read(tmp_path / "requests.sqlite") as store:
        assert [batch.server_id for batch in store.open_batches()] == ["batch1"]  # the next run looks for it again
    batches.denies = lambda id, number: False
    assert run(tmp_path, batches, plan_of(30)).finished == 30
    assert len(batches.sent) == 120 + 30


def test_a_batch_that_is_lost_is_an_attempt_of_each_of_its_requests(tmp_path: Path) -> None:
    batches = Denying(lambda id, number: id == "batch0", lists=False)
    written = run(tmp_path, batches, plan_of(30), attempts=1)
    assert dict(written.unfinished_by) == {"no answer in any batch": 30}
    assert len(batches.sent) == 30
    assert money(tmp_path) == (0, 30 * 500, 0)
