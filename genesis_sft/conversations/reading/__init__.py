"""Rows of files and Hub data sets, in blocks that worker processes parse.

::

    open_source ──> OpenedSource.blocks() ──> Block ──> parse_block ──> rows, and what is wrong with the others
    in one process, bounded memory            pickled   in any process
"""

from genesis_sft.conversations.reading.block import BLOCK_BYTES, MAX_ROW_BYTES, Block, Row, parse_block
from genesis_sft.conversations.reading.source import OpenedSource, open_source, origin, read_rows
from genesis_sft.conversations.reading.source_files import SourceFile, file_sha256, source_identity

__all__ = [
    "BLOCK_BYTES",
    "MAX_ROW_BYTES",
    "Block",
    "OpenedSource",
    "Row",
    "SourceFile",
    "file_sha256",
    "open_source",
    "origin",
    "parse_block",
    "read_rows",
    "source_identity",
]
