"""One thread that writes: what is asked for within a few milliseconds is committed together.

A commit waits for the disk, so a commit for every request would bound the rate of a run. Who asks goes on only when
the commit that holds its change has ended.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genesis_sft.errors import RunDirError
from genesis_sft.synthesis.store.schema import store_error, truncate_log

Result = TypeVar("Result")

GATHER_SECONDS = 0.002
"""How long a commit waits for company."""

CHECKPOINT_SECONDS = 1.0
"""How long a commit may stand in the write-ahead log alone: a copy of the database without it lacks no more."""


@dataclass
class _Change:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    paid: bool
    result: Any = None
    error: Exception | None = None


class GroupCommit:
    """Makes changes to a database in a thread of its own.

    After a commit has failed (disk full, file damaged) only what was paid for is still tried to be written.

    Args:
        connection: Of the database; used by this object alone from now on, closed by `close`.
        path: Of the database, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self._queue: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._failure: RunDirError | None = None
        self._unsaved: list[_Change] = []
        self._in_log = False  # whether something was committed since the last checkpoint
        self._checkpoint_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="group commit", daemon=True)
        self._thread.start()

    async def change(self, work: Callable[[sqlite3.Connection], Result], *, paid: bool = False) -> Result:
        """Make a change and wait until it is on the disk.

        Args:
            work: Gets the connection, within a transaction.
            paid: Whether it holds what was paid for, which is tried to be written even after a failure.

        Raises:
            RunDirError: It could not be written.
        """
        if self._failure is not None and not paid:
            raise self._failure
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put(_Change(work, future, paid))
        return await future

    def close(self) -> None:
        """Write what is still to be written and close the database.

        Raises:
            RunDirError: Something that was paid for could not be written.
        """
        self._queue.put(None)
        self._thread.join()
        if self._unsaved:
            raise RunDirError(
                f"{len(self._unsaved)} answers could not be written to {self._path}: {self._failure}",
                hint="What was reserved for them stays counted against the budget; the same command asks them again, "
                "or has them from their batch once more.",
            )

    def _run(self) -> None:
        open_ = True
        while open_:
            changes = [self._first()]
            if changes[0] is not None:
                time.sleep(GATHER_SECONDS)
            while True:
                try:
                    changes.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            open_ = None not in changes
            self._commit([change for change in changes if change is not None])
            if self._in_log and time.monotonic() - self._checkpoint_at >= CHECKPOINT_SECONDS:
                self._checkpoint()
        truncate_log(self._connection)
        self._connection.close()

    def _first(self) -> _Change | None:
        """Wait for the next change; a pause is used to write what was committed into the database itself."""
        if self._in_log:
            with suppress(queue.Empty):
                return self._queue.get(timeout=CHECKPOINT_SECONDS)
            self._checkpoint()
        return self._queue.get()

    def _checkpoint(self) -> None:
        with suppress(sqlite3.Error):  # what is in the log is safe there
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._in_log, self._checkpoint_at = False, time.monotonic()

    def _commit(self, new: Sequence[_Change]) -> None:
        changes = [*self._unsaved, *(change for change in new if change.paid or self._failure is None)]
        failure = self._transact(changes)
        if failure is not None:
            self._failure = failure
            changes = [change for change in changes if change.paid]  # by themselves they may fit
            self._unsaved = changes if self._transact(changes) else []
        else:
            self._unsaved = []
        lost = {id(change) for change in self._unsaved}
        for change in new:
            if self._failure is not None and (not change.paid or id(change) in lost):
                change.error = self._failure
        _deliver(new)

    def _transact(self, changes: Sequence[_Change]) -> RunDirError | None:
        """Make changes in one transaction; a failure takes all of them back."""
        if not changes:
            return None
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._make(change)
            self._connection.execute("COMMIT")
            self._in_log = True
        except (sqlite3.Error, OSError) as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            return store_error(self._path, error)
        return None

    def _make(self, change: _Change) -> None:
        """Make one change; what is wrong with it alone does not harm the others."""
        change.error = None
        self._connection.execute("SAVEPOINT one")
        try:
            change.result = change.work(self._connection)
        except (sqlite3.OperationalError, sqlite3.InternalError):
            raise
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # the file is damaged
                raise
            change.error = store_error(self._path, error)
        except Exception as error:
            change.error = error
        if change.error is not None:
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")


def _deliver(changes: Sequence[_Change]) -> None:
    """Wake those who wait, with one call into their event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Change]] = {}
    for change in changes:
        by_loop.setdefault(change.future.get_loop(), []).append(change)
    for loop, waiting in by_loop.items():
        with suppress(
            RuntimeError
        ):  # its loop was closed: an interrupted run; what it asked for is written all the same
            loop.call_soon_threadsafe(_wake, waiting)


def _wake(changes: Sequence[_Change]) -> None:
    for change in changes:
        if change.future.done():
            continue
        if change.error is not None:
            change.future.set_exception(change.error)
        else:
            change.future.set_result(change.result)
