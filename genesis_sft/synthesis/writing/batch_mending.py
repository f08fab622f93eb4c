"""A batch that was about to be sent when the process was killed, or whose creation got no answer: does it exist?

The provider has no name of ours for a batch, so the batches that it was given since then are looked at: one with as
many requests, that we know nothing of, is ours if its results hold our keys. Results can be read only when it has
ended, so it is waited for. Where there is none, nothing was sent, and the requests go out again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from genesis_sft.console import say
from genesis_sft.synthesis.providers import Batch, Batches
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.records import OpenBatch

SETTLE_SECONDS = 20.0
"""How long the provider may need before it lists a batch that it was sent."""

_CLOCKS_APART = timedelta(hours=1)


async def find_batch(
    intended: OpenBatch, batches: Batches, store: JobStore, until_ended: Callable[[Batch], Awaitable[None]]
) -> str | None:
    """Return the provider's name of a batch that it may have; ``None`` where it has none, and nothing was sent.

    Args:
        intended: The batch, as it was recorded before it was sent.
        batches: The provider.
        store: Holds its requests, and the batches that we know.
        until_ended: Waits until a batch of the provider has ended.
    """
    created_at = datetime.fromisoformat(intended.created_at)
    await asyncio.sleep(SETTLE_SECONDS)
    known, ours = store.batch_ids(), store.attempts_of_batch(intended.id).keys()
    for batch in await batches.recent(created_at - _CLOCKS_APART):
        if batch.id in known or batch.count != intended.count:
            continue
        say(f"  batch {batch.id} at the provider may be one that was sent when the last run ended: looking into it")
        await until_ended(batch)
        async for key, _ in batches.results(batch.id):
            if key in ours:
                return batch.id
            break  # one foreign key is enough: all or none are ours
    return None
