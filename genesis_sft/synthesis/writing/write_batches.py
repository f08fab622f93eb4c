"""Writes conversations with Message Batches: half the price, answers within minutes to hours.

All conversations go forward together, wave by wave: the next request of each goes into a batch, and when all batches
of a wave have ended, their answers decide the next wave. What is at the provider stays there when the run is stopped
or killed; the same command collects it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from genesis_sft.console import say
from genesis_sft.errors import GenesisError, InputError
from genesis_sft.synthesis.asking.request import Fault, Request
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.price.price_json import price_to_json
from genesis_sft.synthesis.providers import (
    MAX_BATCH_BYTES,
    MAX_BATCH_REQUESTS,
    Batches,
    ProviderError,
    Unanswerable,
)
from genesis_sft.synthesis.store.ledger import BudgetSpent
from genesis_sft.synthesis.store.records import OpenBatch
from genesis_sft.synthesis.store.replay import replay
from genesis_sft.synthesis.writing.batch_mending import find_batch, give_up_batch
from genesis_sft.synthesis.writing.batch_results import BatchResults
from genesis_sft.synthesis.writing.batch_waiting import Waiting
from genesis_sft.synthesis.writing.work import Work
from genesis_sft.synthesis.writing.written import Tally, Written, counted

_BATCH_BYTES = min(MAX_BATCH_BYTES, 64_000_000)  # its JSON is held in memory while it is sent
_ITEM_BYTES = 1000  # of JSON around the texts of a request, and room for what it escapes


async def write_batches(work: Work, batches: Batches) -> Written:
    """Write the conversations of a plan with batches; what is in the store is not asked again.

    Raises:
        Stopped: The run was asked to stop, or the provider answers no more; batches stay at the provider.
        InputError: The provider never answered.
        GenesisError: The provider takes no requests of ours, e.g. for a wrong key.
    """
    return await _Run(work, batches).write()


class _Run:
    def __init__(self, work: Work, batches: Batches) -> None:
        self._chain, self._batches, self._store, self._price = work.chain, batches, work.store, work.price
        self._open = list(work.scenarios)
        self._attempts = work.section.provider.attempts
        self._tally = Tally(len(work.scenarios), work.store.ledger, work.progress, work.screened)
        self._waiting = Waiting(batches, work.store, self._tally, work.section.provider, work.stop)
        self._results = BatchResults(batches, work.store, self._tally, self._attempts)
        self._why: str | None = None
        self._sent: Counter[str] = Counter()
        self._num_sent = 0
        self._created: set[int] = set()  # batches that the provider took in this run
        self._has_lost_one = False

    async def write(self) -> Written:
        await self._collect()
        while await self._send_wave():
            await self._collect()
        return self._tally.written(self._why)

    async def _collect(self) -> None:
        """Wait for all batches that are at the provider, and record what came of them."""
        for batch in self._store.open_batches():
            self._waiting.require_going_on()
            server_id = batch.server_id or await self._mend(batch)
            if server_id is None:
                continue
            try:
                created_at = datetime.fromisoformat(batch.created_at)
                await self._waiting.until_ended(await self._waiting.poll(server_id, created_at))
                await self._waiting.asking(partial(self._results.record, batch, server_id, itertools.count(1)))
            except ProviderError as error:
                if not error.is_not_found:
                    raise
                what = f"batch {server_id}, sent {batch.created_at[:10]}: the provider has no such results (any more)"
                await self._give_up(batch, what)
        await self._require_accepted()

    async def _mend(self, batch: OpenBatch, *, maybe_paid: bool = True) -> str | None:
        """Return the provider's name of a batch that it may have; where it does not, nobody waits for it any more."""
        find = partial(find_batch, batch, self._batches, self._store, self._waiting.until_ended, self._waiting.sleep)
        if (found := await self._waiting.asking(find)) is not None:
            await self._store.batch_created(batch.id, found)
        elif not maybe_paid:
            await self._store.batch_dropped(batch.id)
        else:
            await self._give_up(batch, "a batch got no answer, and the provider's list does not have it")
        return found

    async def _give_up(self, batch: OpenBatch, what: str) -> None:
        """Close a batch whose answers cannot be had; see `give_up_batch`.

        Raises:
            InputError: It is the second one that the provider took in this run and has lost; it stays open.
        """
        if batch.id in self._created:
            if self._has_lost_one:
                raise InputError(
                    f"{what}. It is the second batch that the provider took in this run and has lost",
                    hint="Look at the provider what it has and what it charged. The same command looks for the batch "
                    "again; where it is not there, its requests are sent again, which is a second payment.",
                )
            self._has_lost_one = True
        self._results.faults.update(self._store.attempts_of_batch(batch.id).keys())
        await give_up_batch(batch, self._store, what)

    async def _require_accepted(self) -> None:
        """Raise why requests were refused, if the recipe as it is now would send the same ones again."""
        for scenario in self._open if self._results.refused else ():
            await asyncio.sleep(0)
            outcome = replay(self._chain, scenario, self._store).outcome
            if isinstance(outcome, Request) and outcome.key in self._results.refused:
                raise self._results.refused[outcome.key]
        if self._results.refused:
            say(f"  {len(self._results.refused):,} requests that are out of use were refused and not paid for")
        self._results.refused.clear()

    async def _send_wave(self) -> bool:
        """Send the next request of every conversation; returns whether anything was sent."""
        scenarios, self._open, self._why = self._open, [], None
        sent, batch, num_bytes = False, list[Request](), 0
        for scenario in scenarios:
            await asyncio.sleep(0)  # thousands are looked through: signals are to be noticed meanwhile
            if (request := self._next(scenario)) is None:
                continue
            self._waiting.require_going_on()
            self._open.append(scenario)
            size = 2 * request.num_bytes + _ITEM_BYTES
            if batch and (len(batch) >= MAX_BATCH_REQUESTS or num_bytes + size > _BATCH_BYTES):
                sent = await self._send(batch) or sent
                batch, num_bytes = [], 0
            if self._why is None:  # once the budget covers no more, the others wait for what this wave leaves of it
                batch.append(request)
                num_bytes += size
        sent = (bool(batch) and await self._send(batch)) or sent
        self._say_what_was_sent()
        return sent

    def _say_what_was_sent(self) -> None:
        """Say it in one line for a wave, of however many batches: more would drown the bar."""
        if self._sent:
            steps = ", ".join(f"{count:,} {step}" for step, count in sorted(self._sent.items()))
            batches = "a batch" if self._num_sent == 1 else f"{self._num_sent:,} batches"
            say(f"  sent in {batches}: {counted(self._sent.total(), 'request')} ({steps})")
        self._sent, self._num_sent = Counter(), 0

    def _next(self, scenario: Scenario) -> Request | None:
        """Return the next request of a conversation; one that needs none, or gets no answer, is counted."""
        outcome = replay(self._chain, scenario, self._store).outcome
        if not isinstance(outcome, Request):
            self._tally.count_outcome(scenario, outcome)
        elif self._results.faults[outcome.key] >= self._attempts:
            self._tally.count_unfinished("no answer in any batch")
        else:
            return outcome
        return None

    async def _send(self, requests: Sequence[Request]) -> bool:
        """Send a batch, or as much of it as the budget covers; returns whether there is one."""
        return await self._waiting.asking(partial(self._create, requests))

    async def _create(self, requests: Sequence[Request]) -> bool:
        """Send a batch once, or as much of it as the budget covers now.

        Raises:
            Fault: The provider does not have it.
        """
        self._waiting.require_going_on()
        most = [self._price.most(request, batch=True) for request in requests]
        covered = self._covered(most)
        if covered < len(requests):
            left = (self._store.ledger.left or 0) - sum(most[:covered])
            self._why = self._tally.out_of_budget(BudgetSpent(most[covered], left))
        if not covered:
            return False
        requests = requests[:covered]
        batch = await self._store.intend_batch(requests, most[:covered], price_to_json(self._price))
        try:
            created = await self._batches.create(requests)
        except Fault as fault:
            # of an error of its own a provider does not know either; found out before anything else is sent
            if fault.maybe_paid or fault.kind == "server error":
                if await self._mend(batch, maybe_paid=fault.maybe_paid) is None:
                    raise
            else:
                await self._store.batch_dropped(batch.id)
                raise
        except (Unanswerable, GenesisError) as error:
            await self._store.batch_dropped(batch.id)
            raise InputError(f"the provider takes no batches of ours: {error}") from None
        else:
            await self._store.batch_created(batch.id, created.id)
        self._created.add(batch.id)
        self._sent.update(request.step for request in requests)
        self._num_sent += 1
        return True

    def _covered(self, most: Sequence[int]) -> int:
        """Return how many requests, from the first, the budget covers."""
        left = self._store.ledger.left
        if left is None:
            return len(most)
        sums = itertools.accumulate(most)
        return sum(1 for _ in itertools.takewhile(lambda cost: cost <= left, sums))
