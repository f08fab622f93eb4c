"""A source, opened: local files of any kind, or a Hub data set, as one sequence of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.reading.block import BLOCK_BYTES, Block, Chunk, Row, Unit, parse_block
from genesis_sft.conversations.reading.byte_streams import PACKED
from genesis_sft.conversations.reading.source_files import SourceFile, find_files, split_pattern
from genesis_sft.errors import DataError
from genesis_sft.recipe import SourceSection

_READABLE = ".jsonl, .json, .csv (each also .gz or .zst), .parquet or .arrow"


@dataclass(frozen=True)
class OpenedSource:
    """A source that can be read, as often as is liked.

    Attributes:
        section: The source's section of the recipe.
        files: Its files, in the order in which they are read; none for a Hub data set.
        num_bytes: Size of its files (of the table in memory, for a Hub data set).
        origin: Where it comes from, for people; see `origin`.
    """

    section: SourceSection
    files: tuple[SourceFile, ...]
    num_bytes: int
    origin: str
    _table: Any = field(default=None, repr=False)

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
        """Yield the rows in order, in blocks of about ``block_bytes`` of text: the same blocks every time.

        Raises:
            DataError: A file is damaged, or is not what its name says.
        """
        number = first_row = bytes_before = 0
        for name, unit, num_bytes, chunks in self._parts(block_bytes):
            row = 0
            for chunk in chunks:
                yield Block(
                    number=number,
                    first_row=first_row + row,
                    file=name,
                    first_row_in_file=row,
                    unit=unit,
                    kind=chunk.kind,
                    payload=chunk.payload,
                    num_bytes=bytes_before + min(chunk.position, num_bytes),
                )
                number += 1
                row += chunk.num_rows
            first_row += row
            bytes_before += num_bytes

    def _parts(self, block_bytes: int) -> Iterator[tuple[str, Unit, int, Iterator[Chunk]]]:
        """Yield name, unit, size and rows of each file, or of the Hub's table."""
        if self._table is not None:
            from genesis_sft.conversations.reading.hub import read_table

            yield self.origin, "row", self.num_bytes, read_table(self._table, block_bytes)
        for file in self.files:
            ending = _ending(file.path)
            unit: Unit = "line" if ending == ".jsonl" else "row"
            yield file.name, unit, file.num_bytes, _reader(ending)(file.path, block_bytes)


def open_source(section: SourceSection) -> OpenedSource:
    """Find the files of a source, or fetch a Hub data set.

    Example:
        >>> opened = open_source(SourceSection(name="mine", path="shards/*.jsonl.gz"))
        >>> [file.name for file in opened.files], opened.origin
        (['a.jsonl.gz', 'b.jsonl.gz'], '*.jsonl.gz')

    Raises:
        DataError: There is no such file, its name tells no known kind, or the data set has no such part.
        AssetError: A Hub data set is out of reach.
    """
    if section.path is None:
        from genesis_sft.conversations.reading.hub import load_table

        table = load_table(section)
        return OpenedSource(section, (), table.data.nbytes, origin(section), table)
    files = find_files(section)
    for file in files:
        if _ending(file.path) not in _ENDINGS:
            raise DataError(
                f"source {section.name}: expected a {_READABLE} file, found {file.name}",
                hint="Convert it, or rename it if it is one.",
            )
    return OpenedSource(section, files, sum(file.num_bytes for file in files), origin(section))


def origin(section: SourceSection) -> str:
    """Return where a source comes from, for people: a file's name, or name, configuration and split on the Hub.

    The folder of a file stays out: reports are passed on, and are not to tell how a machine is laid out.
    """
    if section.path is None:
        return " ".join(filter(None, (f"hub:{section.hub}", section.config, section.split)))
    path = Path(section.path)
    is_pattern = any(character in section.path for character in "*?[") and not path.is_file()
    return split_pattern(section.path)[1] if is_pattern else path.name


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 0, row) of a local file, or of all files that match a pattern.

    Raises:
        DataError: The file cannot be read, or a row is no JSON object; says which row and line.
    """
    for block in open_source(SourceSection(name="file", path=str(path))).blocks():
        for number, row in parse_block(block):
            if isinstance(row, BadRow):
                raise located(row, block, number, str(path))
            yield number, row


def located(fault: BadRow, block: Block, row: int, where: str) -> BadRow:
    """Return the fault of a row with the place where it was found."""
    line = f" (line {line_of(block, row)})" if block.unit == "line" else ""
    return BadRow(fault.reason, f"{where}, row {row}{line}: {fault}", hint=fault.hint)


def line_of(block: Block, row: int) -> int | None:
    """Return the line, from 1, of a row of the source in its file; none where rows are not lines."""
    return block.first_row_in_file + row - block.first_row + 1 if block.unit == "line" else None


def _ending(path: Path) -> str:
    """Return the ending that tells the kind: ``".jsonl"`` of ``a.jsonl.gz``."""
    suffix = path.suffix
    if suffix not in PACKED:
        return suffix
    inner = Path(path.stem).suffix
    return inner if inner in (".jsonl", ".json", ".csv") else path.name


_ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


def _reader(ending: str) -> Callable[[Path, int], Iterator[Chunk]]:
    """Return the function that reads a kind of file; its libraries are loaded only where there is such a file."""
    if ending == ".jsonl":
        from genesis_sft.conversations.reading.json_lines import read_lines as reader
    elif ending == ".json":
        from genesis_sft.conversations.reading.json_array import read_array as reader
    elif ending == ".csv":
        from genesis_sft.conversations.reading.csv_rows import read_csv as reader
    elif ending == ".parquet":
        from genesis_sft.conversations.reading.arrow_rows import read_parquet as reader
    else:
        from genesis_sft.conversations.reading.arrow_rows import read_ipc as reader
    return reader
