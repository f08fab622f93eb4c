"""Sources of a recipe, read row by row into conversations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.files import Row, Rows, open_file, what_is_at
from genesis_sft.conversations.formats import FORMATS, detect_format
from genesis_sft.conversations.hub import open_hub
from genesis_sft.errors import DataError
from genesis_sft.recipe import SourceSection
from genesis_sft.run_dir import hash_file


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 0, row) of a local file.

    Raises:
        DataError: The file cannot be read, or a row is no JSON object; says which row and line.
    """
    opened = open_file(Path(path))
    for number, row in opened.rows:
        if isinstance(row, BadRow):
            raise _located(row, str(path), number, opened.unit)
        yield number, row


class SourceReader:
    """One source, opened; iterate it for (row number from 0, conversation, or what is wrong with the row).

    Args:
        section: The source's section of the recipe.

    Attributes:
        total: Number of rows.
        format: Name of the format; for ``auto`` empty until the first row that is a conversation was read.

    Raises:
        DataError: There is no such file, or it is damaged.
        AssetError: A Hub data set is out of reach.
    """

    def __init__(self, section: SourceSection) -> None:
        self._section = section
        self._opened = _open(section)
        self.total = self._opened.total
        self.format: str = "" if section.format == "auto" else section.format

    def __iter__(self) -> Iterator[tuple[int, Conversation | BadRow]]:
        where = f"source {self._section.name}: {self._section.path or origin(self._section)}"
        for number, row in self._opened.rows:
            try:
                if isinstance(row, BadRow):
                    raise row
                format = self.format or detect_format(row)
                found = Conversation(FORMATS[format](row), source=self._section.name, row=number)
            except BadRow as fault:
                yield number, _located(fault, where, number, self._opened.unit)
            else:
                self.format = format
                yield number, found


def read_conversations(section: SourceSection) -> Iterator[Conversation]:
    """Yield the conversations of a source, in order.

    Raises:
        DataError: A row is no conversation; says which row, what was expected and what was found.
    """
    for _, found in SourceReader(section):
        if isinstance(found, BadRow):
            raise found
        yield found


def origin(section: SourceSection) -> str:
    """Return where a source comes from, for people: a file's name, or name, configuration and split on the Hub.

    The folder of a file stays out: reports are passed on, and are not to tell how a machine is laid out.
    """
    if section.path is not None:
        return Path(section.path).name
    return " ".join(filter(None, (f"hub:{section.hub}", section.config, section.split)))


def source_identity(section: SourceSection) -> str:
    """Return what decides the rows of a source: the SHA-256 of its file, or its pinned name on the Hub.

    Raises:
        DataError: There is no such file.
    """
    if section.path is None:
        return f"{section.hub}@{section.revision}:{section.config or 'default'}:{section.split}"
    path = Path(section.path)
    if not path.is_file():
        raise DataError(
            f"source {section.name}: expected a file of conversations at {path}, found {what_is_at(path)}",
            hint="Correct the source's path; it is relative to the recipe.",
        )
    return hash_file(path)


def _open(section: SourceSection) -> Rows:
    return open_hub(section) if section.path is None else open_file(Path(section.path))


def _located(fault: BadRow, where: str, number: int, unit: str) -> BadRow:
    """Return the fault with the place where it was found."""
    line = f" (line {number + 1})" if unit == "line" else ""
    return BadRow(fault.reason, f"{where}, row {number}{line}: {fault}", hint=fault.hint)
