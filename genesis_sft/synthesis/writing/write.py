"""Writes conversations, each request by itself: as many at once as the provider takes, in the order of the plan.

::

    scenario ──> chain.next ──┬──> stored? take it ─────────────┬──> chain.next ...
                              └──> reserve ──> ask ──> record ──┘
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from genesis_sft.console import format_duration, say
from genesis_sft.errors import GenesisError, InputError, Stopped
from genesis_sft.synthesis.asking.chain import Ended, Finished
from genesis_sft.synthesis.asking.request import Answer, Fault, Request, Step
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.providers import Provider, Unanswerable
from genesis_sft.synthesis.providers.address import nobody_there
from genesis_sft.synthesis.store.ledger import BudgetSpent
from genesis_sft.synthesis.store.replay import UNANSWERABLE
from genesis_sft.synthesis.writing.pace import TRIES_OF_NOBODY, Pace, Stopping, backoff_seconds
from genesis_sft.synthesis.writing.work import Work
from genesis_sft.synthesis.writing.written import Tally, Written, counted

LONGEST_PAUSE_SECONDS = 600.0
"""A provider that asks to wait longer is left for another run."""

_FAULTS_OF_A_SERVER_GONE = 10
_GRACE_SECONDS = 5.0


async def write(work: Work, provider: Provider) -> Written:
    """Write the conversations of a plan, asking for one answer at a time; what is in the store is not asked again.

    Raises:
        Stopped: The run was asked to stop, or the provider answers no more; all answers are kept.
        InputError: The provider never answered, or a batch's results are to be collected first.
        GenesisError: The provider takes no requests of ours, e.g. for a wrong key.
    """
    if batches := work.store.open_batches():
        raise InputError(
            f"expected no batch at the provider, found {len(batches)} whose answers are not collected",
            hint="Collect them first, with synthesis.provider.batches=true: asking again would be paid twice.",
        )
    return await _Run(work, provider).write(work.stop)


class _Unfinished(Exception):
    """A conversation is left for the next run."""


class _Run:
    def __init__(self, work: Work, provider: Provider) -> None:
        self._chain, self._provider, self._store, self._price = work.chain, provider, work.store, work.price
        self._settings = work.section.provider
        self._scenarios: Iterator[Scenario] = iter(work.scenarios)
        self._num_workers = min(self._settings.concurrency, max(1, len(work.scenarios)))
        self._pace = Pace(self._settings.concurrency)
        self._tally = Tally(len(work.scenarios), work.store.ledger, work.progress, work.screened)
        self._draw = random.Random()
        self._halted, self._settled = asyncio.Event(), asyncio.Event()
        self._why: str | None = None
        self._error: GenesisError | None = None

    async def write(self, stop: asyncio.Event) -> Written:
        watcher = asyncio.create_task(self._watch(stop))
        workers = [asyncio.create_task(self._work()) for _ in range(self._num_workers)]
        try:
            await self._wait_for(workers)
        finally:
            for task in (watcher, *workers):
                task.cancel()
            await asyncio.gather(watcher, *workers, return_exceptions=True)
        for worker in workers:
            if not worker.cancelled():
                worker.result()
        if self._error is not None:
            raise self._error
        written = self._tally.written(self._why)
        if stop.is_set() and written.unfinished:
            raise Stopped(
                f"stopped: {counted(written.finished, 'conversation')} finished by this run, "
                f"{written.unfinished:,} to go; every answer that came is kept"
            )
        return written

    async def _wait_for(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """Wait for the workers; once they are told to stop, only as long as an answer may take."""
        halted = asyncio.create_task(self._halted.wait())
        running = set(workers)
        try:
            while running and not halted.done():
                ended, _ = await asyncio.wait({*running, halted}, return_when=asyncio.FIRST_COMPLETED)
                running -= ended
                if any(task.exception() for task in ended - {halted}):
                    return
        finally:
            halted.cancel()
        if running:
            await asyncio.wait(running, timeout=self._settings.timeout_seconds + _GRACE_SECONDS)

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        if self._pace.under_way:
            longest = format_duration(self._settings.timeout_seconds)
            say(f"  {self._pace.under_way} requests are under way: waiting for their answers, {longest} at most")
        self._halt("stopped")

    def _halt(self, why: str, error: GenesisError | None = None) -> None:
        """Send nothing more; the first reason is the one that is told."""
        if not self._halted.is_set():
            self._why, self._error = why, error
            self._halted.set()
            self._settled.set()
            self._pace.stop()

    async def _work(self) -> None:
        while not self._halted.is_set() and (scenario := next(self._scenarios, None)) is not None:
            try:
                self._tally.count_outcome(scenario, await self._converse(scenario))
            except _Unfinished as unfinished:
                self._tally.count_unfinished(str(unfinished))
            except Stopping:
                self._tally.count_unfinished("the run ended")
            except GenesisError as error:
                self._tally.count_unfinished("the run ended")
                self._halt(str(error), error)
            await asyncio.sleep(0)  # scenarios that are in the store already must not keep others from their answers

    async def _converse(self, scenario: Scenario) -> Finished | Ended:
        known, unanswerable = self._store.by_key(scenario.number), self._store.unanswerable(scenario.number)
        answers: dict[tuple[Step, int], Answer] = {}
        while isinstance(request := self._chain.next(scenario, answers), Request):
            key = request.key
            try:
                if key in unanswerable:
                    raise Unanswerable(unanswerable[key])
                answer = known[key].answer if key in known else await self._ask(request)
            except Unanswerable as error:
                return Ended(UNANSWERABLE, str(error))
            answers[request.step, request.turn] = answer
        return request

    async def _ask(self, request: Request) -> Answer:
        """Ask until there is an answer, as often as the recipe allows."""
        began, fault = time.monotonic(), None
        for number in range(self._settings.attempts):
            if number:
                await self._sleep(backoff_seconds(number - 1, self._draw))
            taken_at = await self._pace.take(request.scenario)
            try:
                return await self._ask_once(request)
            except Fault as found:
                fault = found
                self._pace.failed(fault, taken_at)
                self._stop_if_gone(fault, began, tries=number + 1)
            finally:
                self._pace.give_back()
        assert fault is not None
        raise _Unfinished(fault.kind)

    async def _ask_once(self, request: Request) -> Answer:
        attempt = await self._reserve(request)
        try:
            answer = await self._provider.ask(request)
        except Fault as fault:
            await self._store.failed(attempt, fault)
            raise
        except Unanswerable as error:
            await self._store.cannot_be_answered(attempt, str(error))
            raise
        except GenesisError as error:
            await self._store.refused(attempt, str(error))
            raise
        else:
            answer = await self._store.answered(attempt, answer, self._price.cost(answer.usage, batch=False))
        finally:
            self._settled.set()
            self._settled.clear()
        self._pace.succeeded()
        self._tally.count_answer(answer.usage)
        return answer

    async def _reserve(self, request: Request) -> int:
        """Reserve what a request may cost; where the budget has no room, when others are settled for less."""
        most = self._price.most(request, batch=False)
        while not self._halted.is_set():
            try:
                return await self._store.reserve(request, most)
            except BudgetSpent as spent:
                if self._store.ledger.reserved == 0:
                    self._halt(self._tally.out_of_budget(spent))
                else:
                    await self._settled.wait()
        raise Stopping

    def _stop_if_gone(self, fault: Fault, began: float, *, tries: int) -> None:
        """End the run where more of it is of no use: the provider is not there, or wants to be left alone for long."""
        last = tries == self._settings.attempts
        if not self._pace.reached and (last or tries == TRIES_OF_NOBODY):
            self._halt("", nobody_there(self._settings, fault))
        if fault.retry_after is not None and fault.retry_after > LONGEST_PAUSE_SECONDS:
            self._halt("", Stopped(f"the provider asks to wait {format_duration(fault.retry_after)}: {fault}"))
        in_a_row = self._pace.faults_in_a_row
        if last and in_a_row >= _FAULTS_OF_A_SERVER_GONE and self._pace.last_answer_at < began:
            self._halt("", self._tally.gone(f"{in_a_row} requests in a row were not answered, at last: {fault}"))

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), seconds)
        if self._halted.is_set():
            raise Stopping
