"""Waiting for a provider of batches: until it answers, until a batch has ended, and no longer than the run may go."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TypeVar

from genesis_sft.errors import Stopped
from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Fault
from genesis_sft.synthesis.providers import Batch, Batches, ProviderError
from genesis_sft.synthesis.providers.address import nobody_there
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.writing.batch_mending import is_listed
from genesis_sft.synthesis.writing.pace import TRIES_OF_NOBODY, backoff_seconds
from genesis_sft.synthesis.writing.written import Tally, counted

FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 2.0, 60.0
_POLL_GROWTH = 1.5

Result = TypeVar("Result")


class Waiting:
    """Waits, and ends the run where it was asked to stop: all of it raises `Stopped`.

    Args:
        batches: The provider.
        store: Knows what stays at the provider.
        tally: Shows how far a batch is.
        settings: How often the provider is asked in a row, and where it should be.
        stop: Set when the run is to end.
    """

    def __init__(
        self, batches: Batches, store: JobStore, tally: Tally, settings: ProviderSection, stop: asyncio.Event
    ) -> None:
        self._batches, self._store, self._tally, self._settings, self._stop = batches, store, tally, settings, stop
        self._draw = random.Random()
        self._reached = False  # whether there ever was a connection

    async def until_ended(self, batch: Batch) -> None:
        """Wait until the provider has done with a batch."""
        wait_seconds = FIRST_POLL_SECONDS
        while not batch.ended:
            counts = f"batch {batch.id}: {batch.succeeded + batch.failed:,} of {batch.count:,} done"
            self._tally.show(note=counts)
            await self.sleep(wait_seconds)
            wait_seconds = min(LONGEST_POLL_SECONDS, wait_seconds * _POLL_GROWTH)
            batch = await self.poll(batch.id, batch.created_at)

    async def poll(self, id: str, created_at: datetime) -> Batch:
        """Return how far a batch is, asking again where the provider does not find it.

        Args:
            id: The provider's name for it.
            created_at: When it was sent, about.

        Raises:
            ProviderError: ``is_not_found`` where the provider has not found it so often in a row, nor its list it.
        """
        return await self.asking(partial(self._poll, id, created_at, itertools.count(1)))

    async def _poll(self, id: str, created_at: datetime, tries: Iterator[int]) -> Batch:
        try:
            return await self._batches.poll(id)
        except ProviderError as error:
            if not error.is_not_found:
                raise
            if await is_listed(id, created_at, self._batches) or next(tries) < self._settings.attempts:
                raise Fault("server error", f"batch {id} was not found: {error}") from None
            raise

    async def asking(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask the provider for something about batches, again where it fails for a while."""
        last: Fault | None = None
        attempts = self._settings.attempts
        for number in range(attempts):
            if last is not None:
                await self.sleep(max(last.retry_after or 0.0, backoff_seconds(number - 1, self._draw)))
            try:
                result = await ask()
            except Fault as fault:
                last = fault
                self._reached = self._reached or fault.kind != "no connection"
                if not self._reached and number + 1 in (TRIES_OF_NOBODY, attempts):
                    raise nobody_there(self._settings, fault) from None
            else:
                self._reached = True
                return result
        raise self._tally.gone(f"the provider did not answer {attempts} times in a row, at last: {last}")

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        self.require_going_on()

    def require_going_on(self) -> None:
        """End the run where it was asked to stop."""
        if self._stop.is_set():
            text = "stopped: every answer that came is kept"
            if count := len(self._store.open_batches()):
                verb = "stays" if count == 1 else "stay"
                text += f", and {counted(count, 'batch')} {verb} at the provider, which goes on with the work"
            raise Stopped(text)
