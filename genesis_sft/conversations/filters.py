"""Functions of the user's own that decide which conversations stay: ``my_filters.py:keep_english``.

They are programs. Whoever loads one has made sure that the user allows it; nothing here asks.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from genesis_sft.conversations.conversation import Conversation, as_dict
from genesis_sft.conversations.faults import BadRow, show_value
from genesis_sft.errors import DataError

Filter = Callable[[dict[str, Any]], Any]

_SHOWN = 100  # characters of what a filter says that a reason or detail holds at most


@cache
def load_filter(name: str) -> Filter:
    """Load ``file.py:function``; once a process, so that a worker does not run the file again for every block.

    Raises:
        DataError: There is no such file or function, or the file cannot be imported.
    """
    path, function = _split(name)
    module = _import(path)
    if not hasattr(module, function):
        raise DataError(
            f"filter {_short(name)}: expected a function {function} in {path}, found none",
            hint="It is given {'messages': [...], 'source': ..., 'row': ...} and returns True to keep it.",
        )
    found = getattr(module, function)
    if not callable(found):
        raise DataError(f"filter {_short(name)}: expected {function} to be a function, found {show_value(found)}")
    return found  # type: ignore[no-any-return]


def filter_identity(filters: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each filter's file by ``file.py:function``; what a file imports itself does not count.

    The folder stays out of the name: it decides nothing, and is not to be told in reports.

    Example:
        >>> filter_identity(["/home/me/my_filters.py:keep_english"])
        {'my_filters.py:keep_english': '9f86d0…'}

    Raises:
        DataError: There is no such file, or two of the same name differ.
    """
    found: dict[str, str] = {}
    for name in filters:
        path, _ = _split(name)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if found.setdefault(_short(name), sha256) != sha256:
            raise DataError(f"two filters are both called {_short(name)}", hint="Give one of the files another name.")
    return found


def apply_filter(name: str, conversation: Conversation) -> None:
    """Let a filter decide on a conversation; returns when it stays.

    Raises:
        BadRow: The filter said no (``filter keep_english``), said why not (``filter: too short``), failed, or said
            something else than True, False or a reason.
        DataError: The filter cannot be loaded.
    """
    keep = load_filter(name)
    function = name.rpartition(":")[2]
    row = {
        "messages": [as_dict(message) for message in conversation.messages],
        "source": conversation.source,
        "row": conversation.row,
    }
    try:
        answer = keep(row)
    except (Exception, SystemExit) as error:  # the user's program may raise anything; the run goes on
        raise BadRow("filter failed", f"{_short(name)} raised {type(error).__name__}: {str(error)[:_SHOWN]}") from None
    if isinstance(answer, str):
        raise BadRow(f"filter: {answer[:_SHOWN]}", f"{_short(name)} left the row out: {answer[:_SHOWN]}")
    if type(answer).__name__ not in ("bool", "bool_"):  # Python's, and NumPy's of any version
        raise BadRow(
            "filter failed", f"expected True, False or a reason from {_short(name)}, found {show_value(answer)}"
        )
    if not answer:
        raise BadRow(f"filter {function}", f"{_short(name)} left the row out")


def _split(name: str) -> tuple[Path, str]:
    """Return file and function of a filter's name."""
    file, _, function = name.rpartition(":")
    if not file or not function.isidentifier():
        raise DataError(f"expected a filter such as my_filters.py:keep_english, found {name!r}")
    path = Path(file)
    if not path.is_file():
        raise DataError(
            f"filter {_short(name)}: expected a Python file at {path}, found {'a folder' if path.is_dir() else 'none'}",
            hint="The path of a filter is relative to the recipe.",
        )
    return path, function


def _import(path: Path) -> Any:
    # registered under a name of its own, as dataclasses look their module up; the name differs for every file
    name = f"genesis_sft_filter_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"expected a filter's file to end in .py, found {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise DataError(
            f"{path} cannot be imported: {type(error).__name__}: {error}",
            hint=f"Try it by itself: python {path.name}",
        ) from None
    return module


def _short(name: str) -> str:
    return Path(name).name
