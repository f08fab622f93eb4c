"""A batch of which we do not know, or no longer, what the provider has of it.

One that was about to be sent when the process was killed, or whose creation got no answer: the provider has no name of
ours for it, so the batches that it was given since then are looked at. One with as many requests, that we know nothing
of, is ours if its results hold our keys. Results can be read only when it has ended, so it is waited for.

One that the provider had and does not know any more: results are kept for 29 days, and belong to a workspace. One that
is still in the provider's list is there, whatever else the provider says.

Where nothing is found, what its requests may have cost counts as perhaps spent, and they go out again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from genesis_sft.console import say
from genesis_sft.synthesis.asking.request import Fault
from genesis_sft.synthesis.providers import Batch, Batches, ProviderError
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.ledger import format_usd
from genesis_sft.synthesis.store.records import OpenBatch

SETTLE_SECONDS = 20.0
"""How long the provider may need before it lists a batch that it was sent."""

_MARGIN = timedelta(hours=25)
"""What is looked through beyond the time since it was sent: our clock may have been set since, by a time zone too."""


async def find_batch(
    intended: OpenBatch,
    batches: Batches,
    store: JobStore,
    until_ended: Callable[[Batch], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]],
) -> str | None:
    """Return the provider's name of a batch that it may have; ``None`` where none is found.

    Args:
        intended: The batch, as it was recorded before it was sent.
        batches: The provider.
        store: Holds its requests, and the batches that we know.
        until_ended: Waits until a batch of the provider has ended.
        sleep: Waits for so many seconds, unless the run is stopped.
    """
    await sleep(SETTLE_SECONDS)
    back = _back_to(datetime.fromisoformat(intended.created_at))
    ours = store.attempts_of_batch(intended.id).keys()
    for batch in await batches.recent(back, store.batch_ids()):  # batches are sent one after another
        if batch.count != intended.count:
            continue
        say(f"  batch {batch.id} at the provider may be one of ours whose creation got no answer: looking into it")
        try:
            await until_ended(batch)
            async for key, _ in batches.results(batch.id):
                if key in ours:
                    return batch.id
                break  # one foreign key is enough: all or none are ours
            else:
                raise Fault("malformed", f"batch {batch.id} has ended, and its results are empty")
        except ProviderError as error:
            if not error.is_not_found:
                raise
    return None


async def is_listed(id: str, created_at: datetime, batches: Batches) -> bool:
    """Return whether the provider's list has a batch.

    Args:
        id: The provider's name for it.
        created_at: When it was sent, about.
        batches: The provider.

    Raises:
        ProviderError: There is no list; never ``is_not_found``, which would say something of the batch.
    """
    try:
        listed = await batches.recent(_back_to(created_at))
    except ProviderError as error:  # a wrong address, as like as not
        raise ProviderError(str(error), hint=error.hint) from None
    return any(batch.id == id for batch in listed)


async def give_up_batch(batch: OpenBatch, store: JobStore, what: str) -> None:
    """Close a batch whose answers cannot be had, and say what that means.

    Args:
        batch: As the store has it.
        store: Where it counts as perhaps paid for from now on.
        what: Was found, as the beginning of a sentence.
    """
    requests = len(store.attempts_of_batch(batch.id))
    lost = await store.batch_lost(batch.id, what)
    say(
        f"  {what}. Its {requests:,} requests without an answer are sent again where they are still needed, and may be "
        f"charged for twice: up to {format_usd(lost)} counts as perhaps spent"
    )


def _back_to(created_at: datetime) -> timedelta:
    """Return how long before the newest of the provider's batches one may lie that was sent then."""
    return max(timedelta(0), datetime.now(UTC) - created_at) + _MARGIN
