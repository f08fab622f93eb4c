"""The files of a result, and how those that this program wrote are told from others, which are never replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson

from genesis_sft.errors import InputError
from genesis_sft.synthesis.output.card import MARKDOWN_HEAD, WRITTEN_BY

CONVERSATIONS, REJECTED = "conversations.jsonl", "rejected.jsonl"
CARD, CARD_PAGE, CARD_PLOT = "card.json", "card.md", "card.svg"
_PLOT_HEAD_BYTES = 2000
_KEPT = {"id", "area", "principles", "scenario", "messages", "model", "prompts", "usage", "cost_usd"}
_STEP = {"id", "turn", "step", "model", "text", "stop", "usage", "cost_usd"}
_ROWS = {CONVERSATIONS: (_KEPT,), REJECTED: (_KEPT | {"reason", "detail"},)}
_STEPS = (_STEP, _STEP | {"reasoning"})


def require_own_output(folder: Path) -> None:
    """Refuse a folder in which one of the names is taken by somebody else's file.

    Called before anything is asked, so that nobody pays for what cannot be written.

    Raises:
        InputError: It is; or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder at {folder}, found a file", hint="Name another one as synthesis.out.")
    for name in (CONVERSATIONS, REJECTED, CARD, CARD_PAGE, CARD_PLOT):
        if folder.is_dir():
            _require(folder / name, _is_own)


def require_own_steps(path: Path) -> None:
    """Refuse a place where something else than a file of steps of this command lies.

    As in the other files every row is looked at: one that was added, or that another program wrote, keeps the file from
    being replaced. A text that was changed within its row is not noticed.

    Raises:
        InputError: Something does, or there is no folder for it.
    """
    _require(path, lambda path: _has_rows(path, _STEPS))


def _require(path: Path, is_own: Callable[[Path], bool]) -> None:
    if not path.parent.is_dir():
        raise InputError(f"expected a folder {path.parent} to write {path.name} to, found none", hint="Make it first.")
    if (path.exists() or path.is_symlink()) and not (path.is_file() and is_own(path)):
        raise InputError(
            f"expected no file {path}, or one that this command wrote; found another, or one that was changed",
            hint="Move it away, or name another place.",
        )


def _is_own(path: Path) -> bool:
    if path.name in _ROWS:
        return _has_rows(path, _ROWS[path.name])
    try:
        with open(path, "rb") as file:
            if path.name == CARD_PAGE:
                return file.read(len(MARKDOWN_HEAD.encode())) == MARKDOWN_HEAD.encode()
            if path.name == CARD_PLOT:
                return WRITTEN_BY.encode() in file.read(_PLOT_HEAD_BYTES)
            card = orjson.loads(file.read())
            return isinstance(card, dict) and card.get("written_by") == WRITTEN_BY
    except (OSError, ValueError):
        return False


def _has_rows(path: Path, forms: tuple[set[str], ...]) -> bool:
    """Whether every line is a row of one of the forms, as it was written; an empty file is nobody's."""
    try:
        with open(path, "rb") as file:
            return all(_is_row(line, forms) for line in file)
    except (OSError, ValueError):
        return False


def _is_row(line: bytes, forms: tuple[set[str], ...]) -> bool:
    row = orjson.loads(line)
    return isinstance(row, dict) and row.keys() in forms and orjson.dumps(row) + b"\n" == line
