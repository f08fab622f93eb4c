"""A lock that one process holds: a file with its number, which the kernel lets go of when it ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from genesis_sft.errors import RunDirError

_CONTENT = re.compile(rb"\d{0,10}\n?")
_READ_BYTES = 20  # longer than any content


def lock_file(path: Path, in_use: Callable[[str], None]) -> BinaryIO:
    """Lock a file for this process; closing it gives the lock up.

    Args:
        path: The file; made where there is none. Only a process that holds it writes to it.
        in_use: Called where another process holds it, with that one's number or ``"unknown"``. It raises what the user
            is to be told; where it returns instead, the lock is waited for.

    Raises:
        RunDirError: Something else than a lock lies there (it is left alone), or the system has no locks to give.
        OSError: The file cannot be written.
    """
    while True:
        handle = _open(path, os.O_CREAT)
        try:
            if not lock(handle.fileno(), path):
                in_use(_holder(handle) or "unknown")
                lock(handle.fileno(), path, wait=True)
            if _is_at(handle, path):
                _require_lock(handle, path)
                handle.truncate(0)
                handle.write(str(os.getpid()).encode())
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()  # another was made in its place since it was opened


def require_lock(path: Path) -> None:
    """Refuse a name whose file `lock_file` would refuse; changes nothing, and waits for nobody.

    Raises:
        RunDirError: Something else than a lock lies there.
        OSError: The file cannot be written.
    """
    if os.path.lexists(path):
        with _open(path) as handle:
            _require_lock(handle, path)


def lock(descriptor: int, path: Path, *, wait: bool = False) -> bool:
    """Lock what is open under a descriptor, a file or a folder; return whether it is ours.

    Args:
        descriptor: Of the file. Closing it gives the lock up.
        path: Of the file, for the message.
        wait: For another process that holds it.

    Raises:
        RunDirError: The system has no locks to give.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunDirError(
            f"could not lock {path}: {error.strerror}",
            hint="Network file systems may have no locks; name a folder on a disk of this machine.",
        ) from None
    return True


def _open(path: Path, how: int = 0) -> BinaryIO:
    """Open a file for reading and writing; no link, whose target is somebody else's, and nothing that is no file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | how, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _no_lock(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_lock(path)
    return os.fdopen(descriptor, "r+b", buffering=0)


def _require_lock(handle: BinaryIO, path: Path) -> None:
    if not _CONTENT.fullmatch(_beginning(handle)):
        raise _no_lock(path)


def _no_lock(path: Path) -> RunDirError:
    return RunDirError(
        f"expected no file {path}, or the lock that this command keeps there; found something else",
        hint="Move it away, or name another place.",
    )


def _holder(handle: BinaryIO) -> str:
    """Return the number of the process that holds a lock; nothing where the file does not have it."""
    content = _beginning(handle)
    return content.decode().strip() if _CONTENT.fullmatch(content) else ""


def _beginning(handle: BinaryIO) -> bytes:
    return os.pread(handle.fileno(), _READ_BYTES, 0)


def _is_at(handle: BinaryIO, path: Path) -> bool:
    """Say whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False
