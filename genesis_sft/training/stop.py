"""Requests to stop: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SAME_REQUEST_SECONDS = 2.0


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into an event; a second Ctrl-C or SIGTERM interrupts.

    SIGTERM is what schedulers and ``torchrun`` send before they kill, often both of them at about the same time: what
    comes within `_SAME_REQUEST_SECONDS` is the same request. SIGUSR1 is what Slurm can be told to send some minutes
    before (``--signal=USR1@300``).
    """
    requested, first_at = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number: int, frame: object) -> None:
        nonlocal first_at
        if not requested.is_set():
            first_at = time.monotonic()
            requested.set()
        elif number != signal.SIGUSR1 and time.monotonic() - first_at > _SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
