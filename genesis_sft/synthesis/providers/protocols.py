"""What the rest of the program knows of a provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from genesis_sft.synthesis.asking.request import Answer, Fault, Request
from genesis_sft.synthesis.providers.errors import ProviderError, Unanswerable


class Provider(Protocol):
    """Answers requests one by one; many may be under way at once."""

    async def ask(self, request: Request) -> Answer:
        """Return the answer.

        Raises:
            Fault: None came; asking again may help.
            Unanswerable: None will come to this request.
            ProviderError: None will come to any request like it.
        """

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of requests at the provider.

    Attributes:
        id: The provider's name for it.
        created_at: By the provider's clock.
        count: Requests in it.
        ended: Whether its results can be fetched.
        waiting: Requests that are not done yet.
        succeeded: Requests that were answered.
        failed: Requests that ended with an error, expired or were cancelled.
    """

    id: str
    created_at: datetime
    count: int
    ended: bool = False
    waiting: int = 0
    succeeded: int = 0
    failed: int = 0


class Batches(Protocol):
    """Answers many requests together, within a day. All of it raises `Fault` and `ProviderError`."""

    async def create(self, requests: Sequence[Request]) -> Batch:
        """Hand in requests with different keys, within `MAX_BATCH_REQUESTS` and `MAX_BATCH_BYTES`.

        A `Fault` that is ``maybe_paid`` leaves open whether the batch exists: look for it with `recent`.
        """

    async def poll(self, id: str) -> Batch:
        """Return how far a batch is."""

    def results(self, id: str) -> AsyncIterator[tuple[str, Answer | Fault | Unanswerable | ProviderError]]:
        """Yield the keys of an ended batch with what came of them, in any order, as they arrive.

        A `ProviderError` that is yielded says that no request like this one was or will be answered.

        Where a result cannot be read (longer than `LONGEST_ANSWER_BYTES`, or no JSON), a `Fault` stands for it; where
        not even its key can be read, it is left out.

        Raises:
            Fault: The download broke off, or no line of it can be read; what came before is right, and asking again
                starts anew.
            ProviderError: There are no results; ``is_not_found`` where the provider knows no such batch, or has its
                results no more.
        """

    async def recent(self, back: timedelta, known: Container[str] = ()) -> list[Batch]:
        """Return the batches that were created at most so long before the newest one, newest first.

        Reckoned from the newest batch, not from our clock, which may be hours away from the provider's.

        Args:
            back: How long.
            known: Names of batches; what is older than the newest of them is left out, and so are they.
        """

    async def close(self) -> None:
        """Close the connections."""
