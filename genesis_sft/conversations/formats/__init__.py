"""The layouts that data sets use for conversations: one file a format, each a function from a row to messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.faults import BadRow, show_names
from genesis_sft.conversations.formats.alpaca import from_alpaca
from genesis_sft.conversations.formats.messages import from_messages
from genesis_sft.conversations.formats.metamath import from_metamath
from genesis_sft.conversations.formats.sharegpt import from_sharegpt

Format = Callable[[Mapping[str, Any]], tuple[Message, ...]]

FORMATS: dict[str, Format] = {
    "messages": from_messages,
    "sharegpt": from_sharegpt,
    "alpaca": from_alpaca,
    "metamath": from_metamath,
}

_KEYS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "metamath": ("query", "response"),
}


def detect_format(row: Mapping[str, Any]) -> str:
    """Return the name of the format that a row's keys belong to, e.g. ``"metamath"`` for query and response.

    Raises:
        BadRow: The keys belong to no format; lists what was found and what would do.
    """
    for name, keys in _KEYS.items():
        if all(key in row for key in keys):
            return name
    expected = "; ".join(f"{' and '.join(keys)} ({name})" for name, keys in _KEYS.items())
    found = show_names(sorted(map(str, row))) or "none"
    raise BadRow(
        "no known format",
        f"expected the keys of a known format: {expected}; found the keys: {found}",
        hint='For example, one a line: {"messages": [{"role": "user", "content": "..."}, '
        '{"role": "assistant", "content": "..."}]}',
    )
