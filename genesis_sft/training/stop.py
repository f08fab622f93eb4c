"""Requests to stop: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into an event; the second Ctrl-C or SIGTERM interrupts at once.

    SIGTERM is what schedulers and ``torchrun`` send before they kill; SIGUSR1 what Slurm can be told to send some
    minutes before (``--signal=USR1@300``).
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number: int, frame: object) -> None:
        if requested.is_set() and number != signal.SIGUSR1:
            raise KeyboardInterrupt
        requested.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
