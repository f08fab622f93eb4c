"""Pages and pictures that the program wrote and may write anew; any other file in their place is somebody's."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

from genesis_sft.errors import InputError

PAGE_HEAD = "<!DOCTYPE html>\n<!-- genesis-sft data show -->\n"
"""How a page begins."""

_PLOT = b"genesis-sft data stats"
_XML_HEAD = re.compile(rb"<\?xml [^>]*\?>\n")
_PNG_HEAD_BYTES = 33  # the signature and the first chunk, which says how large the picture is
_PNG_MARK = b"tEXtComment\0" + _PLOT
_SVG_MARK = b"<!-- " + _PLOT + b" -->\n"
_READ_BYTES = 512


def require_own_or_none(path: Path) -> None:
    """Refuse a place where something lies that is no page and no plot of this program.

    Raises:
        InputError: Something else lies there, or there is no folder for it.
    """
    if not path.parent.is_dir():
        raise InputError(f"expected a folder {path.parent} to write {path.name} to, found none", hint="Make it first.")
    if path.exists() and not (path.is_file() and _is_own(path)):
        raise InputError(
            f"expected no file {path}, or one that this command wrote; found another",
            hint="Name a file that is not there yet.",
        )


def mark_plot(content: bytes) -> bytes:
    """Return a picture, SVG or PNG, with a note that `genesis-sft data stats` drew it."""
    if head := _XML_HEAD.match(content):
        return content[: head.end()] + _SVG_MARK + content[head.end() :]
    length, check = len(_PNG_MARK) - 4, zlib.crc32(_PNG_MARK)  # the name of a chunk counts into one, not the other
    chunk = struct.pack(">I", length) + _PNG_MARK + struct.pack(">I", check)
    return content[:_PNG_HEAD_BYTES] + chunk + content[_PNG_HEAD_BYTES:]


def _is_own(path: Path) -> bool:
    if not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as file:
        head = file.read(_READ_BYTES)
    xml = _XML_HEAD.match(head)
    return (
        head.startswith(PAGE_HEAD.encode())
        or (xml is not None and head[xml.end() :].startswith(_SVG_MARK))
        or (head.startswith(b"\x89PNG") and head[_PNG_HEAD_BYTES + 4 :].startswith(_PNG_MARK))
    )
