"""Writes conversations with Message Batches: half the price, answers within minutes to hours.

All conversations go forward together, wave by wave: the next request of each goes into a batch, and when all batches
of a wave have ended, their answers decide the next wave. What is at the provider stays there when the run is stopped
or killed; the same command collects it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from genesis_sft.console import Progress, say
from genesis_sft.errors import GenesisError, InputError, Stopped
from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.asking.request import Answer, Fault, Request
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.providers import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, Batch, Batches, Unanswerable
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.ledger import BudgetSpent
from genesis_sft.synthesis.store.records import OpenBatch
from genesis_sft.synthesis.store.replay import replay
from genesis_sft.synthesis.writing.batch_mending import find_batch
from genesis_sft.synthesis.writing.pace import backoff_seconds
from genesis_sft.synthesis.writing.written import Tally, Written

if TYPE_CHECKING:
    from genesis_sft.synthesis.price.prices import Price

FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 2.0, 60.0
_POLL_GROWTH = 1.5
_BATCH_BYTES = min(MAX_BATCH_BYTES, 64_000_000)  # its JSON is held in memory while it is sent
_ITEM_BYTES = 1000  # of JSON around the texts of a request, and room for what it escapes
_COMMITTED_TOGETHER = 256

Result = TypeVar("Result")


async def write_batches(
    chain: Chain,
    scenarios: Sequence[Scenario],
    batches: Batches,
    store: JobStore,
    price: Price,
    section: SynthesisSection,
    *,
    stop: asyncio.Event,
    progress: Progress,
) -> Written:
    """Write the conversations of a plan with batches; what is in the store is not asked again.

    Args: as `write`, with ``batches`` in place of the provider.

    Raises:
        Stopped: ``stop`` was set, or the provider answers no more; batches stay at the provider.
        InputError: The provider never answered.
        GenesisError: The provider takes no requests of ours, e.g. for a wrong key.
    """
    run = _Run(chain, scenarios, batches, store, price, section, stop, progress)
    return await run.write()


class _Run:
    def __init__(
        self,
        chain: Chain,
        scenarios: Sequence[Scenario],
        batches: Batches,
        store: JobStore,
        price: Price,
        section: SynthesisSection,
        stop: asyncio.Event,
        progress: Progress,
    ) -> None:
        self._chain, self._batches, self._store, self._price = chain, batches, store, price
        self._open = list(scenarios)
        self._attempts = section.provider.attempts
        self._stop = stop
        self._tally = Tally(len(scenarios), store.ledger, progress)
        self._faults: Counter[str] = Counter()
        self._draw = random.Random()
        self._why: str | None = None

    async def write(self) -> Written:
        await self._collect()
        while await self._send_wave():
            await self._collect()
        return self._tally.written(self._why)

    async def _collect(self) -> None:
        """Wait for all batches that are at the provider, and record what came of them."""
        for batch in self._store.open_batches():
            server_id = batch.server_id or await self._mend(batch)
            if server_id is not None:
                await self._until_ended(await self._asking(partial(self._batches.poll, server_id)))
                await self._asking(partial(self._record, batch, server_id))

    async def _mend(self, batch: OpenBatch) -> str | None:
        found = await self._asking(partial(find_batch, batch, self._batches, self._store, self._until_ended))
        if found is None:
            await self._store.batch_dropped(batch.id)
        else:
            await self._store.batch_created(batch.id, found)
        return found

    async def _record(self, batch: OpenBatch, server_id: str) -> None:
        """Record the results of an ended batch; what was recorded before is passed over."""
        attempts = self._store.attempts_of_batch(batch.id)
        changes = []
        try:
            async for key, result in self._batches.results(server_id):
                if (attempt := attempts.pop(key, None)) is not None:
                    changes.append(asyncio.create_task(self._record_one(key, attempt, result)))
                if len(changes) >= _COMMITTED_TOGETHER:
                    await asyncio.gather(*changes)
                    changes.clear()
        finally:
            await asyncio.gather(*changes)
        nothing = Fault("malformed", f"batch {server_id} has no result for it", maybe_paid=True)
        await asyncio.gather(*(self._record_one(key, attempt, nothing) for key, attempt in attempts.items()))
        await self._store.batch_collected(batch.id)

    async def _record_one(self, key: str, attempt: int, result: Answer | Fault | Unanswerable) -> None:
        if isinstance(result, Answer):
            await self._store.answered(attempt, result, self._price.cost(result.usage, batch=True))
            self._tally.count_answer(result.usage)
        elif isinstance(result, Fault):
            await self._store.failed(attempt, result)
            self._faults[key] += 1
        else:
            await self._store.cannot_be_answered(attempt, str(result))

    async def _send_wave(self) -> bool:
        """Send the next request of every conversation; returns whether anything was sent."""
        scenarios, self._open, self._why = self._open, [], None
        sent, batch, num_bytes = False, list[Request](), 0
        for scenario in scenarios:
            await asyncio.sleep(0)  # thousands are looked through: signals are to be noticed meanwhile
            if (request := self._next(scenario)) is None:
                continue
            self._open.append(scenario)
            size = 2 * request.num_bytes + _ITEM_BYTES
            if batch and (len(batch) >= MAX_BATCH_REQUESTS or num_bytes + size > _BATCH_BYTES):
                sent = await self._send(batch) or sent
                batch, num_bytes = [], 0
            if self._why is None:  # once the budget covers no more, the others wait for what this wave leaves of it
                batch.append(request)
                num_bytes += size
        return (bool(batch) and await self._send(batch)) or sent

    def _next(self, scenario: Scenario) -> Request | None:
        """Return the next request of a conversation; one that needs none, or gets no answer, is counted."""
        outcome = replay(self._chain, scenario, self._store).outcome
        if not isinstance(outcome, Request):
            self._tally.count_outcome(outcome)
        elif self._faults[outcome.key] >= self._attempts:
            self._tally.count_unfinished("no answer in any batch")
        else:
            return outcome
        return None

    async def _send(self, requests: Sequence[Request]) -> bool:
        """Send a batch, or as much of it as the budget covers; returns whether there is one."""
        most = [self._price.most(request, batch=True) for request in requests]
        covered = self._covered(most)
        if covered < len(requests):
            left = (self._store.ledger.left or 0) - sum(most[:covered])
            self._why = self._tally.out_of_budget(BudgetSpent(most[covered], left))
        if not covered:
            return False
        return await self._asking(partial(self._create, requests[:covered], most[:covered]))

    async def _create(self, requests: Sequence[Request], most: Sequence[int]) -> bool:
        """Send a batch that the budget covers.

        Raises:
            Fault: The provider does not have it.
        """
        batch = await self._store.intend_batch(requests, most)
        try:
            created = await self._batches.create(requests)
        except Fault as fault:
            if not fault.maybe_paid:
                await self._store.batch_dropped(batch.id)
            elif await self._mend(batch) is not None:  # it may exist: found out before anything else is sent
                return True
            raise
        except (Unanswerable, GenesisError) as error:
            await self._store.batch_dropped(batch.id)
            raise InputError(f"the provider takes no batches of ours: {error}") from None
        await self._store.batch_created(batch.id, created.id)
        say(f"  batch {created.id}: {len(requests):,} requests are at the provider")
        return True

    def _covered(self, most: Sequence[int]) -> int:
        """Return how many requests, from the first, the budget covers."""
        left = self._store.ledger.left
        if left is None:
            return len(most)
        sums = itertools.accumulate(most)
        return sum(1 for _ in itertools.takewhile(lambda cost: cost <= left, sums))

    async def _until_ended(self, batch: Batch) -> None:
        """Wait until the provider has done with a batch."""
        wait_seconds = FIRST_POLL_SECONDS
        while not batch.ended:
            counts = f"batch {batch.id}: {batch.succeeded + batch.failed:,} of {batch.count:,} done"
            self._tally.show(note=counts)
            await self._sleep(wait_seconds)
            wait_seconds = min(LONGEST_POLL_SECONDS, wait_seconds * _POLL_GROWTH)
            batch = await self._asking(partial(self._batches.poll, batch.id))

    async def _asking(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask the provider for something about batches, again where it fails for a while."""
        last: Fault | None = None
        for number in range(self._attempts):
            if last is not None:
                await self._sleep(max(last.retry_after or 0.0, backoff_seconds(number - 1, self._draw)))
            try:
                return await ask()
            except Fault as fault:
                last = fault
        raise self._tally.gone(f"the provider did not answer {self._attempts} times in a row, at last: {last}")

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        if self._stop.is_set():
            open_batches = self._store.open_batches()
            raise Stopped(
                f"stopped: every answer that came is kept, and {len(open_batches)} batches stay at the provider, "
                "which goes on with them"
            )
