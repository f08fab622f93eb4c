"""How many requests are under way at once, and when one that failed is tried again.

Additive increase, multiplicative decrease, as TCP does it (Jacobson 1988; RFC 5681): the limit doubles with every round
of answers until the provider first says that it is too much, grows by one with every round after that, and is halved
whenever it says so again, at most once for what was under way together.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time

from genesis_sft.synthesis.asking.request import Fault

START = 4
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
TRIES_OF_NOBODY = 3
"""So often a request is tried while there is no connection; where it is refused, that takes 3 s with the waits."""

_TOO_MUCH = ("rate limit", "overloaded", "timeout")


class Stopping(Exception):
    """No more requests are to be sent."""


class Pace:
    """Slots for requests under way.

    Args:
        most: Slots at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(min(START, most))
        self._doubling = True
        self._under_way = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = itertools.count()
        self._last_cut = self._open_from = 0.0
        self._wake: asyncio.TimerHandle | None = None
        self._stopping = False
        self.faults_in_a_row = 0
        self.last_answer_at = 0.0
        self.reached = False  # whether there ever was a connection

    @property
    def limit(self) -> int:
        """Slots that there are now."""
        return int(self._limit)

    @property
    def under_way(self) -> int:
        """Slots that are taken."""
        return self._under_way

    async def take(self, priority: int) -> float:
        """Wait for a slot, which `give_back` frees; the lowest priority first.

        Returns:
            When it was taken, in seconds of `time.monotonic`; for `failed`.

        Raises:
            Stopping: `stop` was called.
        """
        if self._stopping:
            raise Stopping
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._count), future))
        self._grant()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back()
            raise
        return time.monotonic()

    def give_back(self) -> None:
        """Free a slot."""
        self._under_way -= 1
        self._grant()

    def succeeded(self) -> None:
        """Take in that an answer came."""
        self.faults_in_a_row, self.reached = 0, True
        self.last_answer_at = time.monotonic()
        self._limit = min(self._most, self._limit + (1.0 if self._doubling else 1.0 / self._limit))
        self._grant()

    def failed(self, fault: Fault, taken_at: float) -> None:
        """Take in that a request failed.

        Args:
            fault: How.
            taken_at: When its slot was taken, as `take` returned it.
        """
        self.faults_in_a_row += 1
        self.reached = self.reached or fault.kind != "no connection"
        now = time.monotonic()
        if fault.retry_after is not None:
            self._pause(now + fault.retry_after)
        if fault.kind in _TOO_MUCH and taken_at >= self._last_cut:
            self._limit, self._doubling, self._last_cut = max(1.0, self._limit / 2), False, now

    def stop(self) -> None:
        """Give no more slots; those who wait are told."""
        self._stopping = True
        if self._wake is not None:
            self._wake.cancel()
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(Stopping())
        self._waiting.clear()

    def _pause(self, until: float) -> None:
        """Give no slots before a moment, in seconds of `time.monotonic`."""
        if until > self._open_from:
            self._open_from = until
            if self._wake is not None:
                self._wake.cancel()
            delay = max(0.0, until - time.monotonic())
            self._wake = asyncio.get_running_loop().call_later(delay, self._grant)

    def _grant(self) -> None:
        while self._waiting and self._under_way < self.limit and time.monotonic() >= self._open_from:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():  # one whose waiter was cancelled
                self._under_way += 1
                future.set_result(None)


def backoff_seconds(attempt: int, draw: random.Random) -> float:
    """Return how long to wait before a request is tried again: exponential backoff with full jitter.

    ``random(0, min(cap, base * 2 ** attempt))`` (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015), so that what failed together does not come back together.

    Args:
        attempt: Number of failed attempts before this wait, from 0.
        draw: Generator.
    """
    return draw.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**attempt))
