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
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from genesis_sft.console import say
from genesis_sft.errors import GenesisError, InputError, RunDirError
from genesis_sft.synthesis.asking.request import Answer, Fault, Request
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.price.price_json import price_from_json, price_to_json
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
from genesis_sft.synthesis.writing.batch_waiting import Waiting
from genesis_sft.synthesis.writing.work import Work
from genesis_sft.synthesis.writing.written import Tally, Written, counted

if TYPE_CHECKING:
    from genesis_sft.synthesis.price.prices import Price

_BATCH_BYTES = min(MAX_BATCH_BYTES, 64_000_000)  # its JSON is held in memory while it is sent
_ITEM_BYTES = 1000  # of JSON around the texts of a request, and room for what it escapes
_COMMITTED_TOGETHER = 256


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
        self._faults: Counter[str] = Counter()
        self._refused: dict[str, ProviderError] = {}
        self._why: str | None = None
        self._sent: Counter[str] = Counter()
        self._num_sent = 0

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
                await self._waiting.until_ended(await self._waiting.asking(partial(self._batches.poll, server_id)))
                await self._waiting.asking(partial(self._record, batch, server_id))
            except ProviderError as error:
                if not error.is_not_found:
                    raise
                await self._waiting.asking(
                    partial(self._batches.recent, timedelta(0))
                )  # no list either: a wrong address
                what = f"batch {server_id}, sent {batch.created_at[:10]}: the provider has no such results (any more)"
                await give_up_batch(batch, self._store, what)
        await self._require_accepted()

    async def _mend(self, batch: OpenBatch, *, maybe_paid: bool = True) -> str | None:
        """Return the provider's name of a batch that it may have; where it does not, nobody waits for it any more."""
        find = partial(find_batch, batch, self._batches, self._store, self._waiting.until_ended, self._waiting.sleep)
        if (found := await self._waiting.asking(find)) is not None:
            await self._store.batch_created(batch.id, found)
        elif not maybe_paid:
            await self._store.batch_dropped(batch.id)
        else:
            await give_up_batch(batch, self._store, "a batch got no answer, and the provider's list does not have it")
        return found

    async def _record(self, batch: OpenBatch, server_id: str) -> None:
        """Record the results of an ended batch; what was recorded before is passed over."""
        attempts = self._store.attempts_of_batch(batch.id)
        changes = []
        try:
            price = price_from_json(batch.price)
        except ValueError as error:
            raise RunDirError(f"{self._store.path} is damaged: {error}") from None
        try:
            async for key, result in self._batches.results(server_id):
                if (attempt := attempts.pop(key, None)) is not None:
                    changes.append(asyncio.create_task(self._record_one(key, attempt, result, price)))
                if len(changes) >= _COMMITTED_TOGETHER:
                    await asyncio.gather(*changes)
                    changes.clear()
        finally:
            await asyncio.gather(*changes)
        nothing = Fault("malformed", f"batch {server_id} has no result for it", maybe_paid=True)
        await asyncio.gather(*(self._record_one(key, attempt, nothing, price) for key, attempt in attempts.items()))
        await self._store.batch_collected(batch.id)

    async def _record_one(
        self, key: str, attempt: int, result: Answer | Fault | Unanswerable | ProviderError, price: Price
    ) -> None:
        if isinstance(result, Answer):
            await self._store.answered(attempt, result, price.cost(result.usage, batch=True))
            self._tally.count_answer(result.usage)
        elif isinstance(result, Fault):
            await self._store.failed(attempt, result)
            self._faults[key] += 1
        elif isinstance(result, ProviderError):
            await self._store.refused(attempt, str(result))
            self._refused[key] = result
        else:
            await self._store.cannot_be_answered(attempt, str(result))

    async def _require_accepted(self) -> None:
        """Raise why requests were refused, if the recipe as it is now would send the same ones again."""
        for scenario in self._open if self._refused else ():
            await asyncio.sleep(0)
            outcome = replay(self._chain, scenario, self._store).outcome
            if isinstance(outcome, Request) and outcome.key in self._refused:
                raise self._refused[outcome.key]
        if self._refused:
            say(f"  {len(self._refused):,} requests that are out of use were refused and not paid for")
        self._refused.clear()

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
        elif self._faults[outcome.key] >= self._attempts:
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
                if await self._mend(batch, maybe_paid=fault.maybe_paid) is not None:
                    return True
            else:
                await self._store.batch_dropped(batch.id)
            raise
        except (Unanswerable, GenesisError) as error:
            await self._store.batch_dropped(batch.id)
            raise InputError(f"the provider takes no batches of ours: {error}") from None
        await self._store.batch_created(batch.id, created.id)
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
