"""A file that is one JSON array, read element by element: such files have gigabytes."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.reading.block import MAX_ROW_BYTES, Chunk
from genesis_sft.conversations.reading.byte_streams import open_bytes
from genesis_sft.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_MARKS = re.compile(r'[\[\]{}]|"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"|"')  # brackets, texts, a text without end
_DECODER = json.JSONDecoder()
_DECODER_OF_ANY_NUMBER = json.JSONDecoder(parse_int=float)
_BREAKS_OFF = "no end: the file breaks off"
_IS_LINES = "Is it JSON lines? Then name it .jsonl."


def read_array(path: Path, block_bytes: int) -> Iterator[Chunk]:
    """Yield the elements of an array, about ``block_bytes`` at a time.

    An element that is JSON, and more than Python can hold, becomes a bad row: a whole number of over 4,300 digits here,
    too many brackets within each other when the line is parsed. Where anything else is no JSON, no end can be found.

    Raises:
        DataError: The file is damaged, is no array, or is no JSON; says in which line.
    """
    with open_bytes(path) as (handle, position):
        window = _Window(path, handle, max(block_bytes, 4))
        rows: list[str] = []
        size = 0
        for element in _elements(window):
            if isinstance(element, BadRow):
                if rows:
                    yield Chunk("lines", "\n".join(rows).encode(), len(rows), position())
                    rows, size = [], 0
                yield Chunk("rows", [element], 1, position())
                continue
            # a line each: the values that were found here would be slow to hand on; within text there is no line break
            rows.append(element.replace("\n", " "))
            size += len(element)
            if size >= block_bytes:
                yield Chunk("lines", "\n".join(rows).encode(), len(rows), position())
                rows, size = [], 0
        if rows:
            yield Chunk("lines", "\n".join(rows).encode(), len(rows), position())


class _Window:
    """The part of a text that is being looked at; it moves over the file.

    Attributes:
        text: The part.
        start: Where in it the reading has come to; what lies before is not needed any more.
        at_end: Whether the file goes no further than the part.
    """

    def __init__(self, path: Path, handle: IO[bytes], num_bytes: int) -> None:
        self.text, self.start, self.at_end = "", 0, False
        self._path, self._handle, self._num_bytes = path, handle, num_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._lines_before = self._bytes_read = 0

    def grow(self) -> None:
        """Read on, twice as far each time that the same element needs it."""
        self._lines_before += self.text.count("\n", 0, self.start)
        kept = self.text[self.start :]
        packed = self._handle.read(max(self._num_bytes, len(kept)))
        self.at_end = not packed
        pending = len(self._decoder.getstate()[0])
        try:
            read = self._decoder.decode(packed, final=self.at_end)
        except UnicodeDecodeError as error:
            place = self._bytes_read - pending + error.start
            raise DataError(f"{self._path}: expected UTF-8 text, found another byte at byte {place:,}") from None
        if self._bytes_read == 0:
            read = read.removeprefix("\ufeff")
        self._bytes_read += len(packed)
        self.text, self.start = kept + read, 0

    def skip_space(self) -> str:
        """Move to the next character that is no white space and return it; empty at the end of the file."""
        while True:
            self.start = _SPACE.match(self.text, self.start).end()  # type: ignore[union-attr]  # it always matches
            if self.start < len(self.text):
                return self.text[self.start]
            if self.at_end:
                return ""
            self.grow()

    def fault(self, problem: str, at: int | None = None) -> DataError:
        """Return the error for what was found at a place of the window, or where the reading has come to."""
        line = self._lines_before + self.text.count("\n", 0, self.start if at is None else at) + 1
        return DataError(f"{self._path}, line {line:,}: expected a JSON array, found {problem}")

    def not_an_array(self) -> DataError:
        """Return the error for a file that begins with something else than an array."""
        character = self.text[self.start : self.start + 1]
        found = {"": "nothing", "{": "an object", '"': "text"}.get(character, f"{character!r}")
        return DataError(f"{self._path}: expected the file to be an array of rows, found {found}", hint=_IS_LINES)


def _elements(window: _Window) -> Iterator[str | BadRow]:
    """Yield the text of each element, or what is wrong with it."""
    if window.skip_space() != "[":
        raise window.not_an_array()
    window.start += 1
    if window.skip_space() != "]":
        while True:
            yield _element(window)
            character = window.skip_space()
            if character == "]":
                break
            if character != ",":
                raise window.fault(f"{character!r} after an element" if character else _BREAKS_OFF)
            window.start += 1
    window.start += 1
    if window.skip_space():
        raise window.fault("more text after it")


def _element(window: _Window) -> str | BadRow:
    while True:
        window.skip_space()
        try:
            end, fault = _end(window.text, window.start)
        except json.JSONDecodeError as error:
            # perhaps the element only goes on beyond the window
            if window.at_end:
                raise window.fault(f"bad JSON: {error.msg}", error.pos) from None
            if len(window.text) - window.start > MAX_ROW_BYTES:
                raise window.fault(f"an element that is too long, or bad JSON: {error.msg}") from None
        else:
            # a number that reaches the end of the window may go on
            if end < len(window.text) or window.at_end:
                element = window.text[window.start : end]
                window.start = end
                return fault or element
        window.grow()


def _end(text: str, start: int) -> tuple[int, BadRow | None]:
    """Return where an element ends, and what is wrong with it.

    Raises:
        json.JSONDecodeError: No end can be found.
    """
    fault = None
    try:
        try:
            return _DECODER.raw_decode(text, start)[1], None
        except json.JSONDecodeError:
            raise
        except ValueError:  # Python's limit for whole numbers; its own message advises to change that
            fault = BadRow("not JSON", "expected one JSON object, found a whole number of too many digits")
            return _DECODER_OF_ANY_NUMBER.raw_decode(text, start)[1], fault
    except RecursionError as error:
        end = _end_of_brackets(text, start)
        if end is None:
            raise json.JSONDecodeError(str(error), text, start) from None
        # no fault yet: whoever parses the line may get deeper, and else says so
        return end, fault


def _end_of_brackets(text: str, start: int) -> int | None:
    """Return where the bracket that opens at a place is closed, without looking at what is between."""
    depth = 0
    for mark in _MARKS.finditer(text, start):
        if mark[0] in "[{":
            depth += 1
        elif mark[0] in "]}":
            depth -= 1
            if depth == 0:
                return mark.end()
        elif mark[0] == '"':
            return None
    return None
