"""A lock that one process holds: a file with its number, which the kernel lets go of when it ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def lock_file(path: Path, in_use: Callable[[str], None]) -> IO[str]:
    """Lock a file for this process; closing it gives the lock up.

    Args:
        path: The file; made where there is none. Only a process that holds it writes to it.
        in_use: Called where another process holds it, with that one's number or ``"unknown"``. It raises what the user
            is to be told; where it returns instead, the lock is waited for.

    Raises:
        OSError: The file cannot be written.
    """
    handle = open(path, "a+")  # noqa: SIM115 - held as long as the lock is
    try:
        if not _lock(handle, fcntl.LOCK_NB):
            handle.seek(0)
            in_use(handle.read().strip() or "unknown")
            _lock(handle)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    except BaseException:
        handle.close()
        raise
    return handle


def _lock(handle: IO[str], how: int = 0) -> bool:
    """Return whether the lock was free; without ``LOCK_NB`` it is waited for."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
    except BlockingIOError:
        return False
    return True
