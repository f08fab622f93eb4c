"""Every request and every answer, on the disk before it counts.

A request is committed, with what is reserved for it, before it is sent; its answer before anything is made of it. Kill
the process anywhere: what was answered is never asked again, and what was under way counts as perhaps paid for.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from genesis_sft.console import say
from genesis_sft.errors import RunDirError
from genesis_sft.file_lock import lock, lock_file
from genesis_sft.synthesis.asking.request import Answer, Fault, Request
from genesis_sft.synthesis.store import changes
from genesis_sft.synthesis.store.group_commit import GroupCommit
from genesis_sft.synthesis.store.ledger import Ledger, format_usd
from genesis_sft.synthesis.store.read_store import ReadStore
from genesis_sft.synthesis.store.records import LARGEST_COST, OpenBatch, pack, storable
from genesis_sft.synthesis.store.room import Room
from genesis_sft.synthesis.store.schema import open_for_reading, open_for_writing, reading_connection, store_error

__all__ = ["JobStore", "ReadStore"]

Result = TypeVar("Result")


class JobStore(ReadStore):
    """A job store that this process alone writes to; see `open` and `read`.

    Attributes:
        path: The file.
        ledger: Where the money is.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, *, budget: int | None) -> None:
        super().__init__(path, reading_connection(path))
        changes.end_lost(writer)
        found = self.totals()
        self.ledger = Ledger(budget, found.spent, found.maybe_spent, found.reserved)
        self._reservations = changes.reservations(writer)
        self._commits, self._room = GroupCommit(writer, path), Room(path)
        self._warned = False

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, budget: int | None) -> Iterator[JobStore]:
        """Hold the store for this process; it is made where there is none.

        Attempts that a killed process left open count as perhaps paid for from now on, unless they went in a batch.

        Args:
            path: The file; its folder is made where there is none.
            budget: What may be spent in all, in nano-dollars.

        Raises:
            RunDirError: Another process holds it, it cannot be written, or another file lies there.
        """
        with _held(path):
            try:
                store = cls(path, open_for_writing(path), budget=budget)
            except sqlite3.Error as error:
                raise store_error(path, error) from None
            try:
                yield store
            finally:
                store.close()

    @classmethod
    def read(cls, path: Path) -> ReadStore:
        """Open a store to look into it, also while another process writes to it.

        Raises:
            RunDirError: There is none, or another file lies there.
        """
        return ReadStore(path, open_for_reading(path))

    async def reserve(self, request: Request, most: int) -> int:
        """Record that a request is about to be sent, and reserve what it may cost; then it may be sent.

        Args:
            request: What is asked.
            most: Nano-dollars that it costs at most.

        Returns:
            The attempt, for `answered` or `failed`.

        Raises:
            BudgetSpent: The budget does not cover it; nothing is recorded.
            RunDirError: It cannot be written, or the disk is nearly full.
        """
        return (await self._reserve([request], [most], changes.record_attempt))[0]

    async def answered(self, attempt: int, answer: Answer, cost: int) -> Answer:
        """Record the answer to an attempt; returns it as it will be read back, which is what may be worked with.

        Whatever it holds, it counts as the answer: what cannot be stored of it is left out, and so not asked again.

        Args:
            attempt: As `reserve` returned it.
            answer: What was answered.
            cost: Nano-dollars; one above a million dollars is no cost: what was reserved is recorded for it.
        """
        reserved = self._reservations.get(attempt)
        if reserved is None:  # a batch's results read for the second time
            return storable(answer)
        cost = cost if cost <= LARGEST_COST else reserved
        work = partial(changes.end_answered, attempt, storable(answer), pack(answer.raw), cost)
        kept = await self._end(attempt, work, cost=cost)
        if cost > reserved and not self._warned:
            self._warned = True
            say(
                f"  a request cost {format_usd(cost)}, and at most {format_usd(reserved)} was expected; it is counted. "
                "Are the prices in the recipe right?"
            )
        return kept

    async def failed(self, attempt: int, fault: Fault) -> None:
        """Record that no answer came; its reservation stays as perhaps spent where it may have been charged for."""
        maybe_cost = self._reservations.get(attempt, 0) if fault.maybe_paid else 0
        await self._finish(attempt, fault.kind, str(fault), maybe_cost=maybe_cost)

    async def cannot_be_answered(self, attempt: int, reason: str) -> None:
        """Record that the provider cannot answer a request, which is not asked again."""
        await self._finish(attempt, "unanswerable", reason)

    async def refused(self, attempt: int, reason: str) -> None:
        """Record that the provider takes no requests of ours as things are, e.g. for a wrong key."""
        await self._finish(attempt, "refused", reason)

    async def intend_batch(self, requests: Sequence[Request], most: Sequence[int], price: str) -> OpenBatch:
        """Record that a batch is about to be sent, and reserve what each of its requests may cost.

        Args:
            requests: What is asked.
            most: Nano-dollars that each of them costs at most.
            price: What its answers will cost, as JSON: they may come when the recipe names another model.

        Raises:
            BudgetSpent: The budget does not cover all of them; nothing is recorded.
        """
        await self._reserve(requests, most, partial(changes.record_batch, price))
        return self.open_batches()[-1]

    async def batch_created(self, batch: int, server_id: str) -> None:
        """Record the provider's name for a batch."""
        await self._commits.change(partial(changes.name_batch, batch, server_id), paid=True)

    async def batch_collected(self, batch: int) -> None:
        """Record that all results of a batch were read."""
        await self._commits.change(partial(changes.set_batch_state, batch, "collected"), paid=True)

    async def batch_dropped(self, batch: int) -> None:
        """Record that the provider does not have a batch: nothing of it was sent, nothing is paid."""
        attempts = self.attempts_of_batch(batch).values()
        await asyncio.gather(*(self._finish(attempt, "not sent", "") for attempt in attempts))
        await self._commits.change(partial(changes.set_batch_state, batch, "dropped"))

    async def batch_lost(self, batch: int, reason: str) -> int:
        """Record that nobody has the answers of a batch any more, and that they may have been charged for.

        Returns:
            What they may have cost, in nano-dollars.
        """
        attempts = list(self.attempts_of_batch(batch).values())
        lost = [self._reservations.get(attempt, 0) for attempt in attempts]
        await asyncio.gather(
            *(self._finish(attempt, "lost", reason, most) for attempt, most in zip(attempts, lost, strict=True))
        )
        await self._commits.change(partial(changes.set_batch_state, batch, "lost"), paid=True)
        return sum(lost)

    def attempts_of_batch(self, batch: int) -> dict[str, int]:
        """Return key to attempt of those requests of a batch whose results are not recorded."""
        sql = (
            "SELECT key, attempts.id FROM attempts JOIN requests ON requests.id = attempts.request "
            "WHERE batch = ? AND outcome IS NULL"
        )
        return {row[0]: row[1] for row in self._rows(sql, (batch,))}

    def batch_ids(self) -> set[str]:
        """Return the provider's names of all batches ever sent."""
        return {row[0] for row in self._rows("SELECT server_id FROM batches WHERE server_id IS NOT NULL")}

    def close(self) -> None:
        """Write what is still to be written and close the file."""
        super().close()  # first: who closes a WAL database last also tidies it, and a reader may not
        self._commits.close()

    async def _reserve(
        self,
        requests: Sequence[Request],
        most: Sequence[int],
        record: Callable[[Sequence[Request], Sequence[int], sqlite3.Connection], list[int]],
    ) -> list[int]:
        self._room.require(requests)
        self.ledger.reserve(sum(most))
        try:
            attempts = await self._commits.change(partial(record, requests, most))
        except Exception:  # not of cancellation: then it may have been recorded, and the reservation stands
            self.ledger.settle(sum(most))
            raise
        self._reservations.update(zip(attempts, most, strict=True))
        return attempts

    async def _finish(self, attempt: int, outcome: str, detail: str, maybe_cost: int = 0) -> None:
        if attempt in self._reservations:
            work = partial(changes.end_attempt, attempt, outcome, detail, maybe_cost)
            await self._end(attempt, work, maybe_cost=maybe_cost)

    async def _end(
        self, attempt: int, work: Callable[[sqlite3.Connection], Result], *, cost: int = 0, maybe_cost: int = 0
    ) -> Result:
        reserved = self._reservations.pop(attempt)
        result = await self._commits.change(work, paid=True)  # only then is the rest of the reservation free
        self.ledger.settle(reserved, cost=cost, maybe_cost=maybe_cost)
        return result


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Lock a store for this process: by a file beside it, which says who has it, and by its folder.

    The file may be removed by somebody who takes it for a leftover; the folder stays. The store itself is not locked:
    where the system makes such locks of those that SQLite uses, they would shut SQLite out.
    """

    def in_use(holder: str) -> NoReturn:
        raise RunDirError(
            f"another genesis-sft (process {holder}) writes to {path}",
            hint="Wait for it to end, or stop it with Ctrl-C; `synthesize status` shows how far it is.",
        )

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.resolve()  # one lock, by whatever links the file is reached
        handle = lock_file(file.with_name(file.name + ".lock"), in_use)
    except (OSError, RuntimeError) as error:  # of links that lead in a circle
        raise RunDirError(
            f"expected a folder to write to at {path.parent}: {getattr(error, 'strerror', error)}"
        ) from None
    with handle:
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not lock(folder, file.parent):
                in_use("unknown")
            yield
        finally:
            os.close(folder)
