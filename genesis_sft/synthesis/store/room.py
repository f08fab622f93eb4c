"""Room on the disk: looked at before anything is paid for that could not be kept."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from genesis_sft.errors import RunDirError
from genesis_sft.synthesis.asking.request import Request
from genesis_sft.synthesis.store.schema import store_error

FREE_BYTES = 64_000_000
"""What must be free beside the answers themselves: for requests, for those under way, and for the log of the store."""

_BYTES_PER_TOKEN = 8
"""Of an answer: some four of text, and as many in the response that is kept with it."""

_LOOK_EVERY_SECONDS = 1.0


class Room:
    """The room on a store's disk.

    Args:
        path: The store's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free, self._seen_at = 0, float("-inf")

    def require(self, requests: Sequence[Request]) -> None:
        """Refuse to have requests sent whose answers may find no room.

        Raises:
            RunDirError: The disk is nearly full.
        """
        needed = FREE_BYTES + _BYTES_PER_TOKEN * sum(request.max_tokens for request in requests)
        now = time.monotonic()
        if now - self._seen_at >= _LOOK_EVERY_SECONDS:
            try:
                found = os.statvfs(self._path)
            except OSError as error:
                raise store_error(self._path, error) from None
            self._free, self._seen_at = found.f_bavail * found.f_frsize, now
        if self._free < needed:
            raise RunDirError(
                f"the disk of {self._path} is nearly full: {self._free / 1e6:,.0f} MB are free, and {needed / 1e6:,.0f}"
                " MB are needed to keep answers; nothing more is sent",
                hint="Make room. Every answer that came is kept, and the same command goes on from there.",
            )
