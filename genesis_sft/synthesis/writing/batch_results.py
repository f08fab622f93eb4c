"""What came of the requests of a batch that has ended, recorded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from genesis_sft.errors import RunDirError
from genesis_sft.synthesis.asking.request import Answer, Fault
from genesis_sft.synthesis.price.price_json import price_from_json
from genesis_sft.synthesis.providers import Batches, ProviderError, Unanswerable
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.records import OpenBatch
from genesis_sft.synthesis.writing.written import Tally

if TYPE_CHECKING:
    from genesis_sft.synthesis.price.prices import Price

_COMMITTED_TOGETHER = 256


class BatchResults:
    """Records the results of batches.

    Args:
        batches: The provider.
        store: Where they are recorded.
        tally: Counts the answers.
        attempts: How often the results of a batch are asked for where some are missing.

    Attributes:
        faults: Key to the number of times that a batch brought its request no answer.
        refused: Key to why its request was refused.
    """

    def __init__(self, batches: Batches, store: JobStore, tally: Tally, attempts: int) -> None:
        self._batches, self._store, self._tally, self._attempts = batches, store, tally, attempts
        self.faults: Counter[str] = Counter()
        self.refused: dict[str, ProviderError] = {}

    async def record(self, batch: OpenBatch, server_id: str, tries: Iterator[int]) -> None:
        """Record the results of an ended batch; what was recorded before is passed over.

        Args:
            batch: As the store has it.
            server_id: The provider's name for it.
            tries: Counts the downloads that lack results; the last one that is to be tried settles what they are.

        Raises:
            Fault: The download broke off, or lacks results.
            ProviderError: ``is_not_found``: the provider has no results, so often in a row.
        """
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
        except ProviderError as error:
            if error.is_not_found and next(tries) < self._attempts:
                raise Fault("server error", f"the results of batch {server_id} were not found: {error}") from None
            raise
        finally:
            await asyncio.gather(*changes)
        if attempts and next(tries) < self._attempts:
            raise Fault("cut off", f"batch {server_id} has ended, and {len(attempts):,} of its results are missing")
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
            self.faults[key] += 1
        elif isinstance(result, ProviderError):
            await self._store.refused(attempt, str(result))
            self.refused[key] = result
        else:
            await self._store.cannot_be_answered(attempt, str(result))
