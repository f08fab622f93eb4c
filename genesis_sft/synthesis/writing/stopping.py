"""Requests to stop a run that waits for answers: what is under way is still taken in."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from genesis_sft.console import say

_SAME_REQUEST_SECONDS = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_requests() -> Iterator[asyncio.Event]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into an event; a second Ctrl-C or SIGTERM interrupts.

    To be entered in the main thread, where the event loop runs. Schedulers may send several signals for one request:
    what comes within `_SAME_REQUEST_SECONDS` is the same one.
    """
    loop, requested, first_at = asyncio.get_running_loop(), asyncio.Event(), 0.0

    def request(number: int) -> None:
        nonlocal first_at
        if not requested.is_set():
            first_at = time.monotonic()
            requested.set()
            say("  stopping: no new requests; Ctrl-C again ends at once")
        elif number != signal.SIGUSR1 and time.monotonic() - first_at > _SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        loop.add_signal_handler(number, request, number)
    try:
        yield requested
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
