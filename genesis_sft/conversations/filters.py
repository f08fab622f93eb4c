"""Functions of the user's own that decide which conversations stay: ``my_filters.py:keep_english``.

They are programs. Whoever loads one has made sure that the user allows it; nothing here asks. What they print goes to
stderr: stdout holds the command's own answer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.abc import SourceLoader
from pathlib import Path
from typing import Any

from genesis_sft.conversations.conversation import Conversation, as_dict
from genesis_sft.conversations.faults import BadRow, show_value
from genesis_sft.errors import DataError

Filter = Callable[[dict[str, Any]], Any]

_SHOWN = 100  # characters of what a filter says that a reason or detail holds at most


def load_filter(name: str) -> Filter:
    """Load ``file.py:function``. A process runs a file once as long as it stays the same.

    Raises:
        DataError: There is no such file or function, or the file cannot be imported.
    """
    path, function = _split(name)
    module = _import(path, path.read_bytes())
    if not hasattr(module, function):
        raise DataError(
            f"filter {_short(name)}: expected a function {function} in {path}, found none",
            hint="It is given {'messages': [...]} and returns True to keep it.",
        )
    found = getattr(module, function)
    if not callable(found):
        raise DataError(f"filter {_short(name)}: expected {function} to be a function, found {show_value(found)}")
    return found  # type: ignore[no-any-return]


def filter_identity(filters: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each filter's file by place and name; what a file imports itself does not count.

    The place is part of it, as the first filter that says no is the reason. The folder stays out of the name: it
    decides nothing, and is not to be told in reports.

    Example:
        >>> filter_identity(["/home/me/my_filters.py:keep_english"])
        {'1 my_filters.py:keep_english': '9f86d0…'}

    Raises:
        DataError: There is no such file.
    """
    return {
        f"{place} {_short(name)}": hashlib.sha256(_split(name)[0].read_bytes()).hexdigest()
        for place, name in enumerate(filters, start=1)
    }


def apply_filter(name: str, keep: Filter, conversation: Conversation) -> None:
    """Let a filter decide on a conversation; returns when it stays.

    It is given the messages only: what else it knew of a row, such as the source's name, could decide and would not be
    part of the key of what is cached.

    Args:
        name: ``file.py:function``, for messages.
        keep: The filter, as `load_filter` gives it.
        conversation: The conversation.

    Raises:
        BadRow: The filter said no (``filter keep_english``), said why not (``filter: too short``), failed, or said
            something else than True, False or a reason.
        KeyboardInterrupt: The user stopped the run.
    """
    row = {"messages": [as_dict(message) for message in conversation.messages]}
    try:
        with redirect_stdout(sys.stderr):
            answer = _understood(keep(row))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's program may raise anything; the run goes on
        raise BadRow("filter failed", f"{_short(name)} raised {_said(error)}") from None
    if isinstance(answer, str):
        raise BadRow(f"filter: {answer[:_SHOWN]}", f"{_short(name)} left the row out: {answer[:_SHOWN]}")
    if isinstance(answer, _NotAnAnswer):
        raise BadRow("filter failed", f"expected True, False or a reason from {_short(name)}, found {answer.shown}")
    if not answer:
        raise BadRow(f"filter {name.rpartition(':')[2]}", f"{_short(name)} left the row out")


@dataclass(frozen=True)
class _NotAnAnswer:
    shown: str


def _understood(answer: Any) -> bool | str | _NotAnAnswer:
    """Return an answer as Python's own bool or text; the methods of another type are the user's, and may raise."""
    kind = type(answer)
    if kind.__name__ in ("bool", "bool_"):  # Python's, and NumPy's of any version
        return bool(answer)
    return str.__str__(answer) if issubclass(kind, str) else _NotAnAnswer(show_value(answer))


def _said(error: BaseException) -> str:
    """Return type and message of an exception of the user's program."""
    name = type(error).__name__
    try:
        return f"{name}: {str(error)[:_SHOWN]}"
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"{name}, which cannot be shown"


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


class _Loader(SourceLoader):
    """Runs the very text that was read; Python's own would take the compiled file of an older text of the same second.

    Args:
        path: The file.
        text: What is in it.
    """

    def __init__(self, path: Path, text: bytes) -> None:
        self._path, self._text = path, text

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: Any) -> bytes:
        if path != str(self._path):
            raise OSError  # there is no compiled file
        return self._text


@cache
def _import(path: Path, text: bytes) -> Any:
    if path.suffix != ".py":
        raise DataError(f"expected a filter's file to end in .py, found {path.name}")
    # registered under a name of its own, as dataclasses look their module up; the name differs for every file and text
    hashed = hashlib.sha256(os.fsencode(path) + b"\0" + text)
    name = f"genesis_sft_filter_{hashed.hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(path, text))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise DataError(
            f"{path} cannot be imported: {_said(error)}",
            hint=f"Try it by itself: python {path.name}",
        ) from None
    return module


def _short(name: str) -> str:
    return Path(name).name
