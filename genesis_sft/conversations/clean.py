"""From raw rows to conversations: every row of a block becomes a conversation, or a reject with its reason."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.filters import Filter, apply_filter, load_filter
from genesis_sft.conversations.formats import FORMATS, detect_format
from genesis_sft.conversations.reading import Block, OpenedSource, Row, open_source, parse_block
from genesis_sft.conversations.reading.source import line_of, located
from genesis_sft.conversations.repair import repair_turns
from genesis_sft.errors import DataError
from genesis_sft.recipe import SourceSection

_ROWS_THAT_TELL_THE_FORMAT = 1000
_SMALL_BLOCK_BYTES = 2**18  # where the first rows are wanted, not all


@dataclass(frozen=True)
class Cleaning:
    """How rows of a source become conversations; goes to worker processes with every block.

    Attributes:
        source: Name of the source in the recipe.
        format: Name of the layout of its rows, never ``"auto"``; see `find_format`.
        turns: ``"strict"`` or ``"repair"``, as in a recipe.
        filters: ``file.py:function`` of each filter, with absolute paths; that they may run was made sure before.
    """

    source: str
    format: str
    turns: str = "strict"
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is no conversation.

    Reason and detail hold printable characters only, others as Python escapes them: both go into files and tables, and
    may quote half of a surrogate pair, which no file can hold.

    Attributes:
        file: Name of the file.
        row: Row in the source, counted from 0.
        line: Line in the file, from 1, where rows are lines.
        reason: The kind of fault in a few words.
        detail: What was expected and what was found; holds little of the row itself.
    """

    file: str
    row: int
    line: int | None
    reason: str
    detail: str


@dataclass
class Cleaned:
    """What became of a block of rows.

    Attributes:
        conversations: The conversations, by row.
        rejects: The rows that are none, by row.
        repaired: How many of the conversations each rule of `repair_turns` has changed.
        rows_read: Number of rows: conversations and rejects together.
    """

    conversations: list[Conversation]
    rejects: list[Reject]
    repaired: Counter[str]
    rows_read: int


def clean(block: Block, cleaning: Cleaning) -> Cleaned:
    r"""Turn a block of rows into conversations and rejects; nothing else is needed, so any process can do it.

    Example:
        >>> block = Block(0, 0, "a.jsonl", 0, "line", "lines", b'{"query": "2+2?", "response": "4"}\n{"query": 7', 45)
        >>> cleaned = clean(block, Cleaning("math", "metamath"))
        >>> cleaned.conversations
        [Conversation(messages=(Message(role='user', content='2+2?', ...), ...), source='math', row=0)]
        >>> cleaned.rejects
        [Reject(file='a.jsonl', row=1, line=2, reason='not JSON', detail="expected one JSON object, found...")]

    Raises:
        DataError: A filter cannot be loaded.
    """
    cleaned = Cleaned([], [], Counter(), 0)
    filters = _load_filters(cleaning)
    with _no_search_for_cycles():
        for number, row in parse_block(block):
            try:
                conversation, repairs = _read(row, number, cleaning, filters)
            except BadRow as fault:
                reason, detail = _printable(fault.reason), _printable(str(fault))
                cleaned.rejects.append(Reject(block.file, number, line_of(block, number), reason, detail))
            else:
                cleaned.conversations.append(conversation)
                if repairs:
                    cleaned.repaired.update(repairs)
    cleaned.rows_read = len(cleaned.conversations) + len(cleaned.rejects)
    return cleaned


def find_format(opened: OpenedSource) -> str:
    """Return the format of a source: the stated one, or that of the first row that is a conversation.

    Where none of the first 1,000 rows is a conversation, the first row that has the keys of a format decides.

    Raises:
        DataError: The source has no rows, none of the first 1,000 has the keys of a known format, or a file cannot be
            read.
    """
    section = opened.section
    if section.format != "auto":
        return section.format
    candidate = fault = None
    for number, row in islice(_first_rows(opened), _ROWS_THAT_TELL_THE_FORMAT):
        try:
            if isinstance(row, BadRow):
                raise row
            found = detect_format(row)
            candidate = candidate or found
            _read(row, number, Cleaning(section.name, found, section.turns), {})
        except BadRow as error:
            # the first fault is told, but rather one that names the keys that were found
            if fault is None or (fault.reason != "no known format" and error.reason == "no known format"):
                fault = error
        else:
            return found
    if candidate is not None:
        return candidate
    where = f"source {section.name}: {opened.origin}"
    if fault is None:
        raise DataError(f"{where}: expected rows, found none")
    raise DataError(f"{where}: {fault}", hint=fault.hint)


def read_conversations(section: SourceSection) -> Iterator[Conversation]:
    """Yield the conversations of a source, in order.

    Raises:
        DataError: A row is no conversation; says which row, what was expected and what was found.
        AssetError: A Hub data set is out of reach.
    """
    opened = open_source(section)
    where = f"source {section.name}: {section.path or opened.origin}"
    cleaning: Cleaning | None = None
    filters: dict[str, Filter] = {}
    for block in opened.blocks(_SMALL_BLOCK_BYTES):
        for number, row in parse_block(block):
            if cleaning is None:
                cleaning = Cleaning(section.name, find_format(opened), section.turns, section.filters)
                filters = _load_filters(cleaning)
            try:
                conversation, _ = _read(row, number, cleaning, filters)
            except BadRow as fault:
                raise located(fault, block, number, where) from None
            yield conversation


def _load_filters(cleaning: Cleaning) -> dict[str, Filter]:
    return {name: load_filter(name) for name in cleaning.filters}


def _read(
    row: Row | BadRow, number: int, cleaning: Cleaning, filters: Mapping[str, Filter]
) -> tuple[Conversation, list[str]]:
    """Return the conversation of a row, and the rules that mended it."""
    if isinstance(row, BadRow):
        raise row
    messages = FORMATS[cleaning.format](row)
    repairs: list[str] = []
    if cleaning.turns == "repair":
        messages, repairs = repair_turns(messages)
    conversation = Conversation(messages, cleaning.source, number)
    for name, keep in filters.items():
        apply_filter(name, keep, conversation)
    return conversation, repairs


def _first_rows(opened: OpenedSource) -> Iterator[tuple[int, Row | BadRow]]:
    for block in opened.blocks(_SMALL_BLOCK_BYTES):
        yield from parse_block(block)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Keep Python from looking through all messages for cycles again and again; it takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
