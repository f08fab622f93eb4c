"""The bytes of a file, unpacked while they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from genesis_sft.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PACKED = (".gz", ".zst")
"""Endings of packed files."""

_DAMAGED = (OSError, EOFError, zlib.error, zstandard.ZstdError)
_MAX_WINDOW_BYTES = 2**31  # files packed with `zstd --long=31` are read as well
_PACKED_BYTES = 2048  # read at a time: what they unpack to is held in memory, 64 MB if the file is hostile


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """Open a file, unpacking ``.gz`` and ``.zst``; gives the bytes, and a function for how far the file itself is read.

    Raises:
        DataError: The file cannot be read, or is damaged or cut short; also while the block runs.
    """
    try:
        with open(path, "rb") as raw:
            if path.suffix == ".gz":
                yield cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb")), raw.tell
            elif path.suffix == ".zst":
                yield cast(IO[bytes], io.BufferedReader(_ZstdBytes(raw), 2**17)), raw.tell
            else:
                yield raw, raw.tell
    except _DAMAGED as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: BaseException) -> DataError:
    """Return the error for a file that cannot be read to its end."""
    return DataError(f"{path} cannot be read to its end: {error}", hint="Fetch or write the file again.")


class _ZstdBytes(io.RawIOBase):
    """Unpacked bytes of one or more Zstandard frames; unlike the library's own reader, it notices a cut file."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._packed = b""
        self._unpacked = memoryview(b"")
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            if not self._unpack():
                return 0
        size = min(len(buffer), len(self._unpacked))
        buffer[:size] = self._unpacked[:size]
        self._unpacked = self._unpacked[size:]
        return size

    def _unpack(self) -> bool:
        """Unpack some more bytes, perhaps none; says whether the file goes on."""
        packed = self._packed or self._raw.read(_PACKED_BYTES)
        self._packed = b""
        if not packed:
            if self._frame is not None:
                raise EOFError("the file ends within a Zstandard frame")
            return False
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        self._unpacked = memoryview(self._frame.decompress(packed))
        if self._frame.eof:
            self._packed = self._frame.unused_data
            self._frame = None
        return True
